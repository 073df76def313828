"""What the README and the pages of docs/ tell a reader to type works as written."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from deploy.cli.app import app
from deploy.cli.entry import run_command
from runner.run import Run

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = [README, *(page.read_text() for page in sorted((ROOT / "docs").rglob("*.md")))]


def blocks_of(*pages: str) -> dict[tuple[str, str], None]:
    """Every block of code once, by language."""
    return dict.fromkeys(block for page in pages for block in re.findall(r"```(sh|python)\n(.*?)```", page, re.DOTALL))


BLOCKS = blocks_of(README)
LINES = dict.fromkeys(
    line
    for language, block in blocks_of(*PAGES)
    if language == "sh"
    for line in block.splitlines()
    if line.startswith("oatmill ")
)
COMMANDS = [shlex.split(line, comments=True)[1:] for line in LINES]
PYTHON = [block for language, block in BLOCKS if language == "python"]


def test_the_readme_shows_commands_and_python() -> None:
    assert len(COMMANDS) >= 10
    assert len(PYTHON) == 2


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_and_option_exists(command: list[str]) -> None:
    known: Any = get_command(app)
    words = iter(command)
    while hasattr(known, "commands"):
        known = known.commands[next(words)]
    options = {option for parameter in known.params for option in parameter.opts}
    assert {word for word in command if word.startswith("--")} <= options


@pytest.mark.parametrize("command", [c for c in COMMANDS if c[0] == "train" and "--run-dir" not in c], ids=" ".join)
def test_every_training_command_has_a_plan(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_module.py").write_text("import gymnasium\n\ndef make_env():\n    return gymnasium.make('CartPole-v1')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert run_command(["plan", *command[1:]]) == 0, capsys.readouterr().err


def test_the_python_form_is_checked_and_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Run] = []

    def start(run: Run) -> None:
        started.append(run)

    monkeypatch.setattr(Run, "start", start)
    names: dict[str, Any] = {}
    exec(PYTHON[0], names)
    assert started == [names["run"]]
    assert names["run"].trainer.losses.cmpo.enabled
    assert names["run"].env.mission == "easy_hearts"
