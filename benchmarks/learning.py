"""Trains a recipe with several seeds: `python -m benchmarks.learning RECIPE --seeds 5 --goal 475 [KEY=VALUE...]`.

Each seed is a real `oatmill train`; they run one after another. For each seed it prints the mean return
over the last 100 episodes, at the end and at its highest. It also prints the env steps and the seconds
from the start of the command to the first report with a mean of at least --goal. Finished seeds in --out
are kept, so the same command can continue after an interruption. With --evaluate N it plays N episodes
with the most likely actions of each trained policy, as the RL Zoo's figures do.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from math import inf, sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from benchmarks.processes import environment, oatmill
from runner.folder import read_json
from runner.metrics_table import read_lines

WINDOW = 100
"""The number of episodes in a mean. Reports with fewer episodes are ignored."""
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""The 97.5 % quantile of Student's t distribution, by the number of seeds."""


class Outcome(NamedTuple):
    """The result of one seed.

    Attributes:
        seed: the seed of trainer and actors.
        final: the mean return over the last 100 episodes.
        best: the highest such mean that was reported.
        steps_to_goal: env steps until the goal; `inf` if it was not reached.
        seconds_to_goal: seconds from the start of the command until the goal.
        env_steps: the env steps of the whole run.
        seconds: the duration of the whole command.
        statistics: the means of the environment's own numbers, over the same episodes as `final`.
        evaluated: the mean return of the most likely actions after training; None without --evaluate.
    """

    seed: int
    final: float
    best: float
    steps_to_goal: float
    seconds_to_goal: float
    env_steps: int
    seconds: float
    statistics: Mapping[str, float]
    evaluated: float | None = None


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, read the results, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--goal", type=float, default=inf)
    parser.add_argument("--evaluate", type=int, default=0, metavar="N", help="episodes of the trained policy")
    parser.add_argument("--out", type=Path, help="default: runs/learning-RECIPE")
    given = parser.parse_intermixed_args(arguments)
    out = given.out or Path("runs") / f"learning-{given.recipe}"
    outcomes = []
    for seed in range(given.seeds):
        folder = out / f"seed-{seed}"
        try:
            train(given.recipe, given.settings, seed, folder)
        except ValueError as error:
            parser.error(str(error))
        if given.evaluate and not (folder / "evaluation.json").exists():
            evaluate(folder, given.evaluate)
        outcomes.append(outcome_of(seed, folder, given.goal))
        print(in_words(outcomes[-1]), flush=True)
    for name in ("final", "best", "steps_to_goal", "seconds_to_goal", "seconds"):
        print(f"  {name:16} {mean_with_interval([getattr(outcome, name) for outcome in outcomes])}")
    if given.evaluate:
        print(f"  {'evaluated':16} {mean_with_interval([outcome.evaluated or 0.0 for outcome in outcomes])}")
    for name in outcomes[0].statistics:
        print(f"  {name:16} {mean_with_interval([outcome.statistics[name] for outcome in outcomes])}")


def train(recipe: str, settings: Sequence[str], seed: int, folder: Path) -> None:
    """Run once; records the command, its start and its duration. A finished run is kept.

    Raises:
        ValueError: if the folder has a finished run of another command.
    """
    if (folder / "command.json").exists():
        if (kept := read_json(folder / "command.json")["asked"]) != [recipe, *settings]:
            raise ValueError(f"{folder} is a run of {' '.join(kept)}; choose another --out, or remove this folder")
        return
    command = oatmill("train", recipe, *settings, "--seed", str(seed), "--run-dir", str(folder), "--json")
    shutil.rmtree(folder, ignore_errors=True)  # an incomplete run that was interrupted
    began = time.time()
    subprocess.run(command, check=True, env=environment(), stdout=subprocess.DEVNULL)
    (folder / "command.json").write_text(
        json.dumps({"asked": [recipe, *settings], "began": began, "seconds": time.time() - began})
    )


def evaluate(folder: Path, episodes: int) -> None:
    """Play episodes with a finished run's policy, and record the result."""
    command = oatmill("eval", str(folder), "--episodes", str(episodes), "--deterministic", "--json")
    played = subprocess.run(command, check=True, env=environment(), stdout=subprocess.PIPE, text=True).stdout
    (folder / "evaluation.json").write_text(played)


def outcome_of(seed: int, folder: Path, goal: float) -> Outcome:
    """Read a finished run."""
    summary, command = read_json(folder / "summary.json"), read_json(folder / "command.json")
    lines = read_lines(folder)
    # The learner's seconds start with the learner. The time of its last line is the time of the file's
    # last change.
    before = (folder / "metrics.jsonl").stat().st_mtime - lines[-1]["seconds"] - command["began"]
    full = [line for line in lines if line["episode_return"]["n"] >= WINDOW]
    reached: Mapping[str, Any] | None = next((line for line in full if line["episode_return"]["mean"] >= goal), None)
    return Outcome(
        seed,
        summary["episode_return"]["mean"],
        max((line["episode_return"]["mean"] for line in full), default=-inf),
        reached["env_steps"] if reached else inf,
        reached["seconds"] + before if reached else inf,
        summary["env_steps"],
        command["seconds"],
        summary["episode_statistics"],
        read_json(folder / "evaluation.json")["episode_return"]["mean"] if (folder / "evaluation.json").exists() else None,
    )


def in_words(outcome: Outcome) -> str:
    """The result of a seed as text."""
    goal = "goal not reached"
    if outcome.steps_to_goal < inf:
        goal = f"goal at {outcome.steps_to_goal:,.0f} env steps, {outcome.seconds_to_goal:.1f} s after the command"
    played = "" if outcome.evaluated is None else f"; most likely actions {outcome.evaluated:.2f}"
    return (
        f"seed {outcome.seed}: final {outcome.final:.2f}, best {outcome.best:.2f}, {goal}; "
        f"{outcome.env_steps:,} env steps in {outcome.seconds:.1f} s{played}"
    )


def mean_with_interval(values: Sequence[float]) -> str:
    """The mean and its 95 % interval by Student's t."""
    if inf in values:
        return f"{sum(value < inf for value in values)} of {len(values)} seeds"
    if len(values) not in STUDENT:
        return f"{fmean(values):,.2f}"
    half = STUDENT[len(values)] * stdev(values) / sqrt(len(values))
    return f"{fmean(values):,.2f} [{fmean(values) - half:,.2f}, {fmean(values) + half:,.2f}]"


if __name__ == "__main__":
    main()
