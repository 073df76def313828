"""Whole runs in benchmarks: batches of the recipe's own size, and a rate without the start."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.harness import Effort
from benchmarks.runs import least_steps, steady_rate
from benchmarks.suite.roofline import RECIPES, whole_steps
from learner.budget import fit_batch
from recipes.registry import find_recipe


def run_with(folder: Path, reports: list[tuple[float, int]]) -> Path:
    lines = [json.dumps({"seconds": seconds, "env_steps": steps}) + "\n" for seconds, steps in reports]
    (folder / "metrics.jsonl").write_text("".join(lines))
    return folder


def test_the_rate_leaves_the_start_out(tmp_path: Path) -> None:
    # 10 steps a second for two seconds, then 100.
    slow = [(0.5 * i, 5 * i) for i in range(1, 5)]
    fast = [(2.5 + 0.5 * i, 25 + 50 * i) for i in range(6)]
    assert steady_rate(run_with(tmp_path, slow + fast)) == pytest.approx(100)


def test_a_run_that_ends_in_the_warm_up_is_measured_whole(tmp_path: Path) -> None:
    assert steady_rate(run_with(tmp_path, [(1.0, 100), (1.5, 200), (2.0, 300)])) == pytest.approx(200)
    assert steady_rate(run_with(tmp_path, [(1.0, 100)])) == 0.0


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("effort", [Effort(1, 0.2, quick=True), Effort(1, 2.5), Effort(5, 4.0)])
def test_the_roofline_trains_on_the_recipes_own_batches(recipe: str, effort: Effort) -> None:
    settings = find_recipe(recipe).settings()
    for steps in (least_steps(settings), whole_steps(RECIPES[recipe], settings, effort)):
        trainer = settings.trainer.model_copy(update={"total_timesteps": steps})
        assert fit_batch(trainer, settings.actors.unroll_length) == settings.trainer.batch_size
    fewer = settings.trainer.model_copy(update={"total_timesteps": least_steps(settings) - 1})
    assert fit_batch(fewer, settings.actors.unroll_length) < settings.trainer.batch_size
