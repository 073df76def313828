"""The commands and options of `oatmill` are a promise: whoever changes one changes this test."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.main import get_command

from deploy.cli.app import app
from deploy.cli.completion import complete_assignment, complete_path, complete_recipe
from deploy.cli.entry import run_command
from deploy.cli.examples import EXAMPLES
from recipes.registry import BUILT_IN

ROOT = Path(__file__).resolve().parents[2]

SHARED = {"--log-level", "--help"}
SETTINGS = {"RECIPE", "ASSIGNMENTS", "--preset", "--config"}
COMMANDS = {
    "train": SETTINGS
    | {"--env", "--actors", "--learners", "--run-dir", "--seed", "--resume", "--trust", "--json"}
    | {"--listen", "--insecure", "--keys"},
    "plan": SETTINGS | {"--env", "--actors", "--learners", "--seed", "--json"},
    "recipes": set(),
    "settings": {"WORD", "--json"},
    "status": {"RUN", "--run-dir", "--address", "--keys", "--json"},
    "top": {"RUN", "--run-dir", "--once"},
    "scale": {"RUN", "--run-dir", "--address", "--keys", "--actors"},
    "stop": {"RUN", "--run-dir", "--address", "--keys"},
    "eval": {"CHECKPOINT", "--run-dir", "--episodes", "--deterministic", "--seed", "--record", "--trust", "--json"},
    "export": {"CHECKPOINT", "--run-dir", "--format", "--output", "--trust", "--json"},
    "push": {"RUN", "REPOSITORY", "--episodes", "--seed", "--private", "--publish", "--dry-run", "--trust"},
    "compare": {"RECIPE", "ASSIGNMENTS", "--env", "--arms", "--arm", "--seeds", "--out", "--json"},
    "sweep": {"RECIPE", "ASSIGNMENTS", "--env", "--json"}
    | {"--param", "--trials", "--seeds", "--sampler", "--pruner", "--metric", "--seed", "--out"},
    "doctor": {"RUN", "--run-dir", "--prometheus", "--match", "--json"},
    "probe": {"CHECKPOINT", "--run-dir", "--states", "--seed", "--trust", "--json"},
    "plot": {"RUN_DIRS", "--run-dir"},
    "chaos": {"RECIPE", "ASSIGNMENTS", "--seconds", "--kill", "--fault", "--seed", "--json"},
    "join": {"ADDRESS", "--actors", "--keys", "--trust", "--log-dir"},
    "slurm": SETTINGS
    | {"--env", "--actors", "--learners", "--seed", "--run-dir", "--resume", "--trust", "--keys", "--dry-run"}
    | {"--nodes", "--actors-per-node", "--cpus", "--gpus-per-node", "--mem", "--partition", "--account", "--time"},
    "keygen": {"FOLDER", "--add", "--revoke", "--if-missing"},
    "replay": SETTINGS | {"--run-dir", "--listen", "--insecure", "--keys"},
    "actor": SETTINGS | {"--address", "--actor-id", "--keys"},
    "learner": SETTINGS | {"--address", "--run-dir", "--resume", "--in-container", "--keys"},
    "evaluator": {"--run-dir", "--trust", "--in-container"},
    "health": {"ROLE"},
    "help": {"WORDS"},
}


def options_of(name: str) -> set[str]:
    shown: set[str] = set()
    for parameter in get_command(app).commands[name].params:  # type: ignore[attr-defined]
        is_argument = not parameter.opts[0].startswith("-")
        shown |= {parameter.name.upper()} if is_argument else {*parameter.opts, *parameter.secondary_opts}
    return shown


def test_the_commands_are_the_promised_ones() -> None:
    assert list(get_command(app).commands) == [*COMMANDS, "cluster"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_options_are_the_promised_ones(name: str) -> None:
    assert options_of(name) | {"--help"} == COMMANDS[name] | SHARED


def test_roles_take_addresses_from_the_environment(capsys: pytest.CaptureFixture[str]) -> None:
    for name, variable in (("actor", "OATMILL_ADDRESS"), ("learner", "OATMILL_RUN_DIR"), ("replay", "OATMILL_LISTEN")):
        assert run_command([name, "--help"]) == 0
        assert variable in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--help"], [], ["train", "--help"]])
def test_help_is_plain_text(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    run_command(arguments)
    shown = capsys.readouterr()
    text = shown.out + shown.err
    assert "Usage: oatmill" in text
    assert "\x1b" not in text
    assert "╭" not in text


@pytest.mark.parametrize("arguments", [[], ["cluster"], ["help"], ["help", "train"], ["help", "cluster", "up"]])
def test_a_command_without_arguments_and_help_show_the_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(arguments) == 0
    shown = capsys.readouterr()
    words = arguments[1:] if arguments[:1] == ["help"] else arguments
    assert shown.out.startswith(f"Usage: {' '.join(['oatmill', *words])} ")
    assert shown.err == ""


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_help_of_a_command_shows_examples_of_it(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command([*name.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Examples:" in shown
    for line in EXAMPLES[name]:
        assert f"\n    {line}\n" in shown, "not wrapped"


def test_the_examples_use_only_options_that_exist() -> None:
    for line in [line for lines in EXAMPLES.values() for line in lines]:
        words = shlex.split(line)
        command, options = get_command(app), {word.partition("=")[0] for word in words if word.startswith("--")}
        for word in words[1:]:
            command = getattr(command, "commands", {}).get(word, command)
        assert options <= {option for parameter in command.params for option in parameter.opts}, line


def test_what_messages_and_pages_say_of_commands_is_true() -> None:
    # `oatmill CMD --opt` in backticks, in the sources of all packages and in the documentation.
    packages = ("actors", "agent", "deploy", "learner", "oatmill", "protocol", "recipes", "replay", "runner", "docs")
    files = [path for name in packages for kind in ("py", "md") for path in (ROOT / name).rglob(f"*.{kind}")]
    wrong, root = [], get_command(app)
    for path in files:
        for words in re.findall(r"`oatmill ((?:[a-z]|--)[^`]*)`", path.read_text()):
            command, wanted = root, [word for word in words.split() if re.fullmatch(r"--[a-z-]+", word)]
            known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
            for word in words.split():
                command = getattr(command, "commands", {}).get(word, command)
                known |= {option for parameter in command.params for option in parameter.opts}
            named = command is not root or words.startswith(("--", "COMMAND"))
            wrong += [f"{path.name}: oatmill {words}"] if set(wanted) - known or not named else []
    assert wrong == []


def test_every_command_has_examples_but_those_without_arguments() -> None:
    assert set(COMMANDS) - set(EXAMPLES) == {"recipes", "help"}


@pytest.mark.parametrize("command", ["status", "top", "stop", "doctor", "plot", "eval", "export", "scale"])
def test_a_run_is_named_by_an_argument_or_by_an_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--actors", "1"] if command == "scale" else []
    for way in (["nowhere"], ["--run-dir", "nowhere"]):
        assert run_command([command, *way, *more]) == 2
        assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["status", "doctor", "eval", "export"])
def test_a_run_that_is_named_twice_is_refused(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command([command, "one", "--run-dir", "other"]) == 2
    assert capsys.readouterr().err == "oatmill: error: give the run's folder once: got one and --run-dir other\n"


@pytest.mark.parametrize(
    ("complete", "typed", "offered"),
    [
        (complete_recipe, "ca", ["cartpole"]),
        (complete_assignment, "trainer.gam", ["trainer.gamma=0.99"]),
        (complete_assignment, "trainer.device=c", ["trainer.device=cpu", "trainer.device=cuda"]),
        (complete_assignment, "trainer.compile=", ["trainer.compile=true", "trainer.compile=false"]),
        (complete_assignment, "trainer.gamma=", []),
        (complete_path, "agent.core", ["agent.core", "agent.core_size"]),
    ],
)
def test_the_shell_completes_recipes_settings_and_values(
    complete: Callable[[str], list[str]], typed: str, offered: list[str]
) -> None:
    assert complete(typed) == offered


def test_the_recipes_are_listed_one_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(BUILT_IN)


def test_help_comes_without_loading_what_training_needs() -> None:
    code = (
        "import sys\nfrom deploy.cli.entry import run_command\nassert run_command(['train', '--help']) == 0\n"
        "print('LOADED', *({'torch', 'numpy', 'zmq', 'yaml', 'rich', 'gymnasium'} & set(sys.modules)))"
    )
    began = time.monotonic()
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True, timeout=120)
    assert shown.stdout.splitlines()[-1].strip() == "LOADED"
    assert time.monotonic() - began < 5  # measured 0.25 s alone; a busy machine is no failure


def test_a_reader_that_has_enough_is_no_error_to_speak_of() -> None:
    command = f"{sys.executable} -m deploy recipes | true"
    shown = subprocess.run(["bash", "-c", command], cwd=ROOT, check=True, capture_output=True, text=True, timeout=120)
    assert shown.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_output_that_cannot_be_written_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        shown = subprocess.run(
            [sys.executable, "-m", "deploy", "recipes"], cwd=ROOT, check=False, stdout=full, stderr=subprocess.PIPE, timeout=120
        )
    assert shown.returncode == 1
    assert shown.stderr == b"oatmill: error: standard output cannot be written: No space left on device\n"


def test_a_command_works_whose_output_is_closed() -> None:
    command = f"{sys.executable} -m deploy recipes >&- <&-"
    shown = subprocess.run(["bash", "-c", command], cwd=ROOT, check=False, stderr=subprocess.PIPE, timeout=120)
    assert (shown.returncode, shown.stderr) == (0, b"")


def test_a_learner_that_starts_again_no_longer_says_that_the_run_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.cli.roles.become", lambda _command, threads: None)  # noqa: ARG005
    (tmp_path / "learner.json").touch()
    assert run_command(["learner", "cartpole", "--address", "tcp://127.0.0.1:1", "--run-dir", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml"]
