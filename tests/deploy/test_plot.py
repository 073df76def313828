"""`oatmill plot` draws what metrics.jsonl holds."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from deploy.cli.entry import run_command
from deploy.curves import column
from oatmill.errors import UserError
from recipes import cartpole
from runner.metrics_table import read_lines, surviving
from runner.settings import write_config

PNG_START = b"\x89PNG\r\n"


def write_run(folder: Path) -> Path:
    folder.mkdir()
    losses = {"ppo_critic": {"weighted": 0.5, "gradient_norm": None}, "ppo_actor": {"weighted": -0.1, "gradient_norm": 0.2}}
    lines = [
        {"learner_step": 1, "env_steps": 64, "losses": losses, "episode_return": None},
        {"learner_step": 2, "env_steps": 128, "losses": losses, "episode_return": {"mean": 3.0, "std": 1.0}, "approx_kl": 0.01},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_a_number_that_is_not_there_yet_leaves_a_gap(tmp_path: Path) -> None:
    lines = read_lines(write_run(tmp_path / "run"))
    first, second = column(lines, "episode_return", "mean")
    assert math.isnan(first)
    assert second == 3.0
    assert all(math.isnan(value) for value in column(lines, "losses", "ppo_critic", "gradient_norm"))


def test_what_was_rolled_back_is_not_drawn() -> None:
    # Steps 1 to 4, then a learner that went on from a checkpoint of step 2.
    lines = [{"learner_step": step, "line": number} for number, step in enumerate([1, 2, 3, 4, 3, 4, 5])]
    assert [line["line"] for line in surviving(lines)] == [0, 1, 4, 5, 6]


def test_every_named_run_gets_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [write_run(tmp_path / name) for name in ("one", "two")]
    assert run_command(["plot", *map(str, runs)]) == 0
    shown = capsys.readouterr().out.split()
    assert shown == [str(run / "plots" / "curves.png") for run in runs]
    assert all(Path(path).read_bytes().startswith(PNG_START) for path in shown)


def test_a_folder_without_a_run_is_one_line_and_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["plot", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error == (
        f"oatmill: error: {tmp_path / 'metrics.jsonl'} cannot be read (No such file or directory); "
        "expected a run folder, such as runs/latest\n"
    )


def test_a_run_that_has_reported_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(UserError, match="has not reported a learner step yet"):
        read_lines(tmp_path)


@pytest.mark.parametrize("command", ["plot", "doctor"])
def test_a_damaged_file_is_named_in_one_line(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run")
    write_config(cartpole.settings(), run / "config.yaml")
    (run / "metrics.jsonl").write_text('{"learner_step": 1}\n')
    assert run_command([command, str(run)]) == 2
    (shown,) = capsys.readouterr().err.splitlines()
    assert shown.startswith(
        f"oatmill: error: {run / 'metrics.jsonl'} is damaged, or was written by another version of oatmill ("
    )


def test_a_picture_that_cannot_be_written_is_one_line_and_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run")
    (run / "plots").touch()
    assert run_command(["plot", str(run)]) == 2
    assert f"{run / 'plots' / 'curves.png'} cannot be written: File exists; copy the run" in capsys.readouterr().err
