"""Whole runs of `oatmill train`: CartPole stepped one by one in Python, CartPole vectorised, cogs, and an idle learner.

Steps a second are those of summary.json, from the first learner step to the last; CPU seconds are those of all of the run's
processes from start to end, imports included, so the steps per CPU second of a short run look worse than a long run's. The
return is the mean over the last episodes, at most 100. `learner busy` runs CartPole with so many epochs that the actors wait
for the learner: what it then waits for batches is lost to it. Publishing is not in that number; `weights` measures it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.harness import Arm, Effort, Figure, Rounds
from benchmarks.processes import run_oatmill

WARM_UP = False
CASES: Mapping[str, tuple[str, int, Sequence[str]]] = {
    "cartpole one by one": ("cartpole", 6, ("env.vectorization=sync",)),
    "cartpole vectorised": ("cartpole", 6, ()),
    "cogs": ("cogs_v_clips", 1, ()),
    "learner busy": ("cartpole", 1, ("trainer.epochs=20",)),
}
"""The recipe, its steps per second of effort in units of STEPS_A_SECOND, and what is changed."""
STEPS_A_SECOND = 5_000
QUICK_STEPS = 10_000
IDLE_GOAL = 0.05


def arms(effort: Effort, stack: ExitStack) -> dict[str, Arm]:
    """One run of each case, in a folder of its own; of the fastest alone if all that matters is that it runs."""
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="oatmill-bench-")))
    chosen = ["cartpole vectorised"] if effort.quick else list(CASES)
    return {name: run_of(name, effort, folder) for name in chosen}


def run_of(name: str, effort: Effort, folder: Path) -> Arm:
    """The arm of a case; every run has another seed."""
    recipe, share, changes = CASES[name]
    steps = QUICK_STEPS if effort.quick else int(effort.seconds * share * STEPS_A_SECOND)
    seed = 0

    def arm() -> dict[str, float]:
        nonlocal seed
        seed += 1
        run = folder / f"{name.replace(' ', '-')}-{seed}"
        summary = run_oatmill("train", recipe, f"trainer.total_timesteps={steps}", *changes, f"--seed={seed}", run_dir=run)
        return {
            "steps_per_s": float(summary["env_steps_per_second"] or 0.0),
            "env_steps": float(summary["env_steps"]),
            "return": float(summary["episode_return"]["mean"] or 0.0),
            "idle": idle_share(run),
        }

    return arm


def idle_share(run: Path) -> float:
    """What part of its time the learner waited for batches, after the first report: before it, actors start."""
    lines: list[dict[str, Any]] = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    pairs = list(pairwise(lines))
    passed = sum(later["seconds"] - earlier["seconds"] for earlier, later in pairs)
    waited = sum((later["seconds"] - earlier["seconds"]) * later["wait_fraction"] for earlier, later in pairs)
    return waited / passed if passed > 0 else 1.0


def figures(rounds: Rounds) -> dict[str, Figure]:
    """Throughput, throughput per CPU second, the return, and what the learner waited."""
    found: dict[str, Figure] = {}
    for name in rounds.values:
        found[f"{name}"] = Figure(rounds.median(name, "steps_per_s"), "steps/s")
        per_cpu = [s / c for s, c in zip(rounds.values[name]["env_steps"], rounds.values[name]["cpu_s"], strict=True)]
        found[f"{name}, per CPU second"] = Figure(sorted(per_cpu)[len(per_cpu) // 2], "steps/CPU s")
        found[f"{name}, return"] = Figure(rounds.median(name, "return"), "mean return")
        goal = IDLE_GOAL if name == "learner busy" else None
        found[f"{name}, learner waits"] = Figure(rounds.median(name, "idle"), "of its time", "lower", goal)
    return found
