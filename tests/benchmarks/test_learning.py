"""Seeds of a recipe: what is read from a run's folder, and means with intervals."""

from __future__ import annotations

import json
import os
from math import inf
from pathlib import Path
from typing import Any

import pytest

from benchmarks.learning import main, mean_with_interval, outcome_of

BEGAN = 1_000.0


def reported(env_steps: int, seconds: float, mean: float, episodes: int = 100) -> dict[str, Any]:
    return {
        "learner_step": env_steps,
        "env_steps": env_steps,
        "seconds": seconds,
        "episode_return": {"mean": mean, "n": episodes},
    }


def finished_run(folder: Path, lines: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    # The learner began 4 s after the command: its last line was written 4 s + its seconds after it.
    written = BEGAN + 4 + lines[-1]["seconds"]
    os.utime(folder / "metrics.jsonl", (written, written))
    summary = {"episode_return": {"mean": 31.5}, "env_steps": 3000, "episode_statistics": {"hearts_created": 7.0}}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "command.json").write_text(json.dumps({"asked": ["cartpole"], "began": BEGAN, "seconds": 16.0}))
    return folder


def test_the_goal_is_reached_by_the_first_full_window_and_counted_from_the_command(tmp_path: Path) -> None:
    lines = [reported(500, 1, 99.0, episodes=99), reported(1000, 2, 20.0), reported(2000, 5, 32.0), reported(3000, 9, 31.0)]
    outcome = outcome_of(3, finished_run(tmp_path / "run", lines), goal=32)
    assert (outcome.seed, outcome.final, outcome.best) == (3, 31.5, 32.0)
    assert outcome.steps_to_goal == 2000
    assert outcome.seconds_to_goal == pytest.approx(9.0)
    assert (outcome.env_steps, outcome.seconds, outcome.statistics) == (3000, 16.0, {"hearts_created": 7.0})
    assert outcome_of(3, tmp_path / "run", goal=32.1).seconds_to_goal == inf


def test_means_have_students_interval() -> None:
    # By hand: mean 2, standard deviation 1, t of two degrees of freedom 4.303, 4.303 / sqrt(3) = 2.484.
    assert mean_with_interval([1, 2, 3]) == "2.00 [-0.48, 4.48]"
    assert mean_with_interval([5]) == "5.00"
    assert mean_with_interval([1, inf, 3]) == "2 of 3 seeds"


def test_finished_seeds_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(2):
        finished_run(tmp_path / f"seed-{seed}", [reported(3000, 9, 31.0 + seed)])
    main(["cartpole", "--seeds", "2", "--goal", "31", "--out", str(tmp_path)])
    shown = capsys.readouterr().out
    assert "seed 0: final 31.50, best 31.00, goal at 3,000 env steps, 13.0 s after the command" in shown
    assert "hearts_created   7.00 [7.00, 7.00]" in shown


def test_evaluations_are_reported_beside_the_returns_of_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(2):
        folder = finished_run(tmp_path / f"seed-{seed}", [reported(3000, 9, 31.0)])
        (folder / "evaluation.json").write_text(json.dumps({"episode_return": {"mean": 40.0 + seed}}))
    main(["cartpole", "--seeds", "2", "--evaluate", "5", "--out", str(tmp_path)])
    shown = capsys.readouterr().out
    assert "seed 1: final 31.50, best 31.00, goal not reached; 3,000 env steps in 16.0 s; most likely actions 41.00" in shown
    assert "evaluated        40.50 [34.15, 46.85]" in shown


def test_a_finished_seed_of_other_settings_is_not_taken_for_one_of_these(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finished_run(tmp_path / "seed-0", [reported(3000, 9, 31.0)])
    with pytest.raises(SystemExit) as ended:
        main(["cartpole", "trainer.epochs=2", "--seeds", "1", "--out", str(tmp_path)])
    assert ended.value.code == 2
    assert "seed-0 is a run of cartpole; choose another --out" in capsys.readouterr().err
