"""A real run with a red flag: it warns, ends with a checkpoint, or halves the coefficient that the flag blames."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.system.real_runs import ENDLESS, SMALL, accounted, oatmill, processes_of, training

STEP = 8 * 64
"""Env steps per learner step."""
BUDGET = 20 * STEP
"""The smallest budget with full batches."""
# A policy that never changes stays as random as at the start. This raises a red flag after a quarter of the budget, which is
# learner step 5, and five reports in a row.
STILL = [*SMALL, f"trainer.total_timesteps={BUDGET}", "trainer.optimizer.learning_rate=1e-12", "metrics.gradient_every=1"]
# With a coefficient of a million, the KL of the model's policy has far more than ten times the gradient of PPO.
HEAVY = ["--preset", "conservative", "trainer.losses.muesli_model.policy_pred_coef=1000000"]


def run(folder: Path, *arguments: str) -> dict[str, Any]:
    """The summary and the events of a whole run."""
    shown = oatmill(folder, "train", "cartpole", "--run-dir", "run", "--json", *STILL, *arguments)
    assert shown.returncode == 0, shown.stderr
    assert not processes_of(folder / "run")
    lines = (folder / "run" / "events.jsonl").read_text().splitlines()
    summary: dict[str, Any] = json.loads(shown.stdout)
    return summary | {"events": [json.loads(line) for line in lines]}


def raised(summary: dict[str, Any]) -> list[str]:
    return [event["flag"] for event in summary["events"] if event["event"] == "red_flag_raised"]


@pytest.mark.parametrize(("action", "steps"), [pytest.param("warn", 20, marks=pytest.mark.slow), ("stop", 9)])
def test_a_run_that_warns_continues_and_one_that_stops_ends_with_a_checkpoint(tmp_path: Path, action: str, steps: int) -> None:
    summary = run(tmp_path, f"trainer.on_red_flag={action}")
    assert raised(summary) == ["entropy_high"]
    assert [flag["flag"] for flag in summary["red_flags"]] == ["entropy_high"]
    assert (summary["learner_steps"], summary["env_steps"]) == (steps, steps * STEP)
    assert (tmp_path / "run" / "checkpoints" / "latest").resolve().name == f"step-{steps}"
    assert summary["ledger"]["produced"] == accounted(summary["ledger"])


@pytest.mark.slow
def test_a_run_without_a_red_flag_is_not_stopped(tmp_path: Path) -> None:
    # The same policy that never changes, but before a quarter of an endless budget.
    still = ("trainer.optimizer.learning_rate=1e-12", "metrics.report_every=1", "trainer.on_red_flag=stop")
    with training(tmp_path, *ENDLESS, *still) as train:
        train.until(lambda: train.learner_steps() >= 8)
        train.process.send_signal(signal.SIGINT)
        assert train.end() == 0
        assert train.summary()["red_flags"] == []
        assert train.summary()["learner_steps"] >= 8


def test_a_coefficient_that_a_flag_blames_is_halved_and_the_run_continues(tmp_path: Path) -> None:
    summary = run(tmp_path, *HEAVY, "trainer.on_red_flag=reduce")
    assert "muesli_ratio" in raised(summary)
    moves = [event for event in summary["events"] if event["event"] == "coefficient_moved"]
    assert [(move["loss"], move["scale"]) for move in moves] == [("muesli_model", 0.5)], "once in a window of reports"
    assert moves[0]["why"].startswith("halved: ")
    assert summary["losses"]["muesli_model"]["coef"] == 500_000
    assert summary["learner_steps"] == 20
