"""Whole runs of `oatmill train`: CartPole stepped one by one in Python, CartPole vectorised, cogs, and an idle learner.

Steps per second are measured after a warm-up (`benchmarks/runs.py`). CPU seconds include all of the run's
processes from start to end, with their imports, so the steps per CPU second of a short run look worse than
those of a long run. The return is the mean over the last episodes, at most 100. `learner busy` runs CartPole
with so many epochs that the actors wait for the learner. If the learner still waits for batches then, that
time is wasted. The number does not include publishing, which `weights` measures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.harness import Arm, Effort, Figure, Rounds
from benchmarks.processes import run_oatmill
from benchmarks.runs import least_steps, reports_of, steady_rate
from recipes.registry import find_recipe

WARM_UP = False
CASES: Mapping[str, tuple[str, int, Sequence[str]]] = {
    "cartpole one by one": ("cartpole", 45_000, ("env.vectorization=sync",)),
    "cartpole vectorised": ("cartpole", 45_000, ()),
    "cogs": ("cogs_v_clips", 25_000, ("trainer.minibatches=4", "trainer.shuffle=trajectories")),
    "learner busy": ("cartpole", 15_000, ("trainer.epochs=20",)),
}
"""For each case: the recipe, the env steps per second of `--seconds`, and the changed settings."""
IDLE_GOAL = 0.05


def arms(effort: Effort, stack: ExitStack) -> dict[str, Arm]:
    """One run of each case in its own folder; with `quick` only the fastest case."""
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="oatmill-bench-")))
    chosen = ["cartpole vectorised"] if effort.quick else list(CASES)
    return {name: run_of(name, effort, folder) for name in chosen}


def run_of(name: str, effort: Effort, folder: Path) -> Arm:
    """The arm of a case; every run has a different seed."""
    recipe, a_second, changes = CASES[name]
    steps = max(least_steps(find_recipe(recipe).settings()), int(a_second * effort.seconds))
    seed = 0

    def arm() -> dict[str, float]:
        nonlocal seed
        seed += 1
        run = folder / f"{name.replace(' ', '-')}-{seed}"
        summary = run_oatmill("train", recipe, f"trainer.total_timesteps={steps}", *changes, f"--seed={seed}", run_dir=run)
        return {
            "steps_per_s": steady_rate(run),
            "env_steps": float(summary["env_steps"]),
            "return": float(summary["episode_return"]["mean"] or 0.0),
            "idle": idle_share(run),
        }

    return arm


def idle_share(run: Path) -> float:
    """The fraction of time after the first report in which the learner waited for batches."""
    pairs = list(pairwise(reports_of(run)))
    passed = sum(later["seconds"] - earlier["seconds"] for earlier, later in pairs)
    waited = sum((later["seconds"] - earlier["seconds"]) * later["wait_fraction"] for earlier, later in pairs)
    return waited / passed if passed > 0 else 1.0


def figures(rounds: Rounds) -> dict[str, Figure]:
    """Throughput, throughput per CPU second, the return, and the learner's waiting time."""
    found: dict[str, Figure] = {}
    for name in rounds.values:
        found[f"{name}"] = Figure(rounds.median(name, "steps_per_s"), "steps/s")
        per_cpu = [s / c for s, c in zip(rounds.values[name]["env_steps"], rounds.values[name]["cpu_s"], strict=True)]
        found[f"{name}, per CPU second"] = Figure(sorted(per_cpu)[len(per_cpu) // 2], "steps/CPU s")
        found[f"{name}, return"] = Figure(rounds.median(name, "return"), "mean return")
        goal = IDLE_GOAL if name == "learner busy" else None
        found[f"{name}, learner waits"] = Figure(rounds.median(name, "idle"), "of its time", "lower", goal)
    return found
