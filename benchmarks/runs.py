"""Budgets and speeds of whole runs of `oatmill train` for benchmarks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from learner.budget import MIN_BATCHES
from runner.settings import RunSettings

WARM_UP_S = 2.0
"""Seconds of warm-up after the first learner step. In this time the other actors start, and every part of the
step runs for the first time."""
FEWEST_ROWS = 5


def least_steps(settings: RunSettings) -> int:
    """The smallest budget with full batches; smaller batches cost more per step."""
    return MIN_BATCHES * settings.trainer.batch_size * settings.actors.unroll_length


def reports_of(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, one per learner step."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def steady_rate(run: Path) -> float:
    """Env steps per second after the warm-up, or of the whole run if it is too short for a warm-up."""
    reports = reports_of(run)
    steady = [line for line in reports if line["seconds"] >= reports[0]["seconds"] + WARM_UP_S]
    first, last = (steady if len(steady) >= FEWEST_ROWS else reports)[0], reports[-1]
    passed = last["seconds"] - first["seconds"]
    return float((last["env_steps"] - first["env_steps"]) / passed) if passed > 0 else 0.0
