"""What an evaluator costs a run: CartPole with and without one, in turn, as the ratio of their rates.

Both save the same checkpoints. The evaluator plays them beside the run, with a lower priority, so it only costs CPU time: the
ratio is near 1 where a core is free. `evaluations` says how many checkpoints it has played during one run; with 0 the ratio
says nothing, and `--seconds` must be larger.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.harness import Arm, Effort, Figure, Rounds
from benchmarks.processes import run_oatmill
from benchmarks.runs import least_steps, steady_rate
from learner.reporting.evaluations import EVALUATIONS_FILE
from oatmill.files.json_lines import all_lines
from recipes.registry import find_recipe

WARM_UP = False
A_SECOND = 45_000
"""Env steps per second of `--seconds`."""
SETTINGS = ("trainer.checkpoint_every=10",)
WITH, WITHOUT = "with an evaluator", "without"


def arms(effort: Effort, stack: ExitStack) -> Mapping[str, Arm]:
    """One run with an evaluator and one without, each in its own folder."""
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="oatmill-bench-")))
    steps = max(least_steps(find_recipe("cartpole").settings()), int(A_SECOND * effort.seconds))
    return {name: run_of(folder / name.replace(" ", "-"), steps, evaluated=name == WITH) for name in (WITH, WITHOUT)}


def run_of(folder: Path, steps: int, *, evaluated: bool) -> Arm:
    """The arm with or without an evaluator; the runs of one round have the same seed."""
    seeds = count(1)

    def arm() -> dict[str, float]:
        seed = next(seeds)
        run = folder.with_name(f"{folder.name}-{seed}")
        settings = (f"evaluator.enabled={str(evaluated).lower()}", f"trainer.total_timesteps={steps}", *SETTINGS)
        run_oatmill("train", "cartpole", *settings, f"--seed={seed}", run_dir=run)
        return {"steps_per_s": steady_rate(run), "evaluations": float(len(all_lines(run / EVALUATIONS_FILE)))}

    return arm


def figures(rounds: Rounds) -> Mapping[str, Figure]:
    """Both rates, their ratio within a round, and the number of evaluations."""
    rates = {f"cartpole {name}": Figure(rounds.median(name, "steps_per_s"), "steps/s") for name in (WITH, WITHOUT)}
    return rates | {
        "rate with an evaluator / without": Figure(rounds.ratio(WITH, WITHOUT, "steps_per_s"), "x"),
        "evaluations of a run": Figure(rounds.median(WITH, "evaluations"), "checkpoints"),
    }
