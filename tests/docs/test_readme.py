"""The commands and the Python code in the README and in docs/ work as written."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.main import get_command

import recipes.python_api
from deploy.cli.app import app
from deploy.cli.entry import run_command
from recipes.resolve import resolve_run
from runner.run import Run

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = [README, (ROOT / "CONTRIBUTING.md").read_text(), *(page.read_text() for page in sorted((ROOT / "docs").rglob("*.md")))]
WORDS = 700


def blocks_of(*pages: str) -> dict[tuple[str, str], None]:
    """Every block of code once, by language."""
    return dict.fromkeys(block for page in pages for block in re.findall(r"```(sh|python)\n(.*?)```", page, re.DOTALL))


def lines_of(*pages: str) -> list[str]:
    """Every line of the blocks of shell code; a line that ends with a backslash goes on in the next one."""
    shell = [block.replace("\\\n", " ") for language, block in blocks_of(*pages) if language == "sh"]
    return [line for block in shell for line in block.splitlines()]


COMMANDS = [shlex.split(line, comments=True)[1:] for line in dict.fromkeys(lines_of(*PAGES)) if line.startswith("oatmill ")]
PYTHON = [block for language, block in blocks_of(README) if language == "python"]


def test_the_readme_is_short_and_shows_commands_and_python() -> None:
    assert len(README.split()) <= WORDS
    assert len([line for line in lines_of(README) if line.startswith("oatmill ")]) >= 10
    assert len(PYTHON) == 2


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_and_option_exists(command: list[str]) -> None:
    known: Any = get_command(app)
    words = iter(command)
    while hasattr(known, "commands") and not command[0].startswith("--"):
        known = known.commands[next(words)]
    options = {option for parameter in known.params for option in parameter.opts}
    assert {word for word in command if word.startswith("--")} <= options


@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if c[0] == "train" and not {"--run-dir", "--resume"} & set(c)], ids=" ".join
)
def test_every_training_command_has_a_plan(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_module.py").write_text("import gymnasium\n\ndef make_env():\n    return gymnasium.make('CartPole-v1')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert run_command(["plan", *without(command[1:], "--listen", "--keys")]) == 0, capsys.readouterr().err


def without(arguments: list[str], *options: str) -> list[str]:
    """The arguments without some options and their values: `oatmill plan` starts nothing, so it has none of these."""
    taken = {index + step for index, word in enumerate(arguments) if word in options for step in (0, 1)}
    return [word for index, word in enumerate(arguments) if index not in taken]


def test_the_python_form_is_checked_and_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Run] = []

    def start(run: Run) -> None:
        started.append(run)

    monkeypatch.setattr(Run, "start", start)
    names: dict[str, Any] = {}
    exec(PYTHON[1], names)
    assert started == [names["run"]]
    assert names["run"].trainer.losses.cmpo.enabled
    assert names["run"].env.mission == "easy_hearts"


def test_training_and_loading_are_called_as_their_signatures_say(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []
    loaded = SimpleNamespace(spec=SimpleNamespace(spaces=None))
    for name, answer in (("train", SimpleNamespace(run_dir="run", episode_return=500.0)), ("load", loaded)):
        signature = inspect.signature(getattr(recipes.python_api, name))

        def call(*given: Any, _name: str = name, _signature: Any = signature, _answer: Any = answer, **named: Any) -> Any:
            calls.append((_name, dict(_signature.bind(*given, **named).arguments)))
            return _answer

        monkeypatch.setattr(recipes.python_api, name, call)
    exec(PYTHON[0], {})
    assert [name for name, _ in calls] == ["train", "load"]
    arguments = calls[0][1]
    run = resolve_run(arguments["recipe"], (), preset=None, config=None, flags={}, settings=arguments["settings"])
    assert run.trainer.total_timesteps == 100_000


IN_THE_BACKGROUND = """
rm -f train.out; touch train.out
{command} >train.out 2>&1 &
training=$!
for second in $(seq 120); do grep -q "env steps" train.out && break; sleep 1; done
"""


def shortened(line: str) -> str:
    """A line of the README as a test types it: the same command with a small budget, or in the background.

    `make test` would run this test again, and `oatmill cluster` needs a container engine.
    """
    command = line.split("#", maxsplit=1)[0].strip()
    rewritten = {
        "make train": 'make train ARGS="trainer.total_timesteps=20000"',
        "make test": "make -n test",
        "oatmill top": "oatmill top --once",
        "oatmill stop": "oatmill stop; wait $training",
        "oatmill compare cartpole --seeds 3": (
            "oatmill compare cartpole --seeds 1 --arms baseline,muesli trainer.total_timesteps=4000"
        ),
    }
    if command.startswith(("oatmill train cogs", "oatmill train --resume")):
        return IN_THE_BACKGROUND.format(command=command) + ("oatmill stop; wait $training" if "--resume" in command else "")
    return "true" if command.startswith("oatmill cluster") else rewritten.get(command, command)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_everything_in_the_readme_works_when_it_is_typed_in_a_fresh_clone(tmp_path: Path) -> None:
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(tmp_path / "clone")], check=True)
    script = ["set -e", *(shortened(line) for line in lines_of(README))]
    script += [f"python - <<'END'\n{PYTHON[0]}\nEND"]
    script += [
        f"python - <<'END'\n{PYTHON[1].replace('result =', 'run.trainer.total_timesteps = 20_000' + chr(10) + 'result =')}\nEND"
    ]
    ours = str(Path(sys.executable).parent)
    path = [folder for folder in os.environ["PATH"].split(os.pathsep) if folder != ours]
    shell = os.environ | {"PATH": os.pathsep.join(path)}
    done = subprocess.run(
        ["bash", "-x"], input="\n".join(script), cwd=tmp_path / "clone", env=shell, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
