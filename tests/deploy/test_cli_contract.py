"""The commands and options of `oatmill` are a promise: whoever changes one changes this test."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.main import get_command

from deploy.cli.app import app
from deploy.cli.entry import run_command

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
    "status": {"--run-dir", "--address", "--keys", "--json"},
    "top": {"--run-dir", "--once"},
    "scale": {"--run-dir", "--address", "--keys", "--actors"},
    "stop": {"--run-dir", "--address", "--keys"},
    "eval": {"CHECKPOINT", "--episodes", "--deterministic", "--seed", "--record", "--trust", "--json"},
    "compare": {"RECIPE", "ASSIGNMENTS", "--arms", "--arm", "--seeds", "--out", "--json"},
    "doctor": {"RUN_DIR", "--prometheus", "--match", "--json"},
    "plot": {"RUN_DIRS"},
    "chaos": {"RECIPE", "ASSIGNMENTS", "--seconds", "--kill", "--fault", "--seed", "--json"},
    "keygen": {"FOLDER", "--add", "--revoke", "--if-missing"},
    "replay": SETTINGS | {"--run-dir", "--listen", "--insecure", "--keys"},
    "actor": SETTINGS | {"--address", "--actor-id", "--keys"},
    "learner": SETTINGS | {"--address", "--run-dir", "--resume", "--in-container", "--keys"},
    "health": {"ROLE"},
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


def test_the_recipes_are_listed_one_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["cartpole", "lunar_lander", "minigrid_doorkey", "cogs_v_clips", "atari_pong"]


def test_help_comes_without_loading_what_training_needs() -> None:
    code = (
        "import sys\nfrom deploy.cli.entry import run_command\nassert run_command(['train', '--help']) == 0\n"
        "print('LOADED', *({'torch', 'numpy', 'zmq', 'yaml', 'rich', 'gymnasium'} & set(sys.modules)))"
    )
    began = time.monotonic()
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True, timeout=60)
    assert shown.stdout.splitlines()[-1].strip() == "LOADED"
    assert time.monotonic() - began < 5  # measured 0.25 s alone; a busy machine is no failure


def test_a_reader_that_has_enough_is_no_error_to_speak_of() -> None:
    command = f"{sys.executable} -m deploy recipes | true"
    shown = subprocess.run(["bash", "-c", command], cwd=ROOT, check=True, capture_output=True, text=True, timeout=60)
    assert shown.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_output_that_cannot_be_written_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        shown = subprocess.run(
            [sys.executable, "-m", "deploy", "recipes"], cwd=ROOT, check=False, stdout=full, stderr=subprocess.PIPE, timeout=60
        )
    assert shown.returncode == 1
    assert shown.stderr == b"oatmill: error: standard output cannot be written: No space left on device\n"


def test_a_command_works_whose_output_is_closed() -> None:
    command = f"{sys.executable} -m deploy recipes >&- <&-"
    shown = subprocess.run(["bash", "-c", command], cwd=ROOT, check=False, stderr=subprocess.PIPE, timeout=60)
    assert (shown.returncode, shown.stderr) == (0, b"")
