"""Whether the whole system learns like one process: `python -m benchmarks.same_results RECIPE --seeds 10 [KEY=VALUE...]`.

Each seed is trained twice: by `oatmill train` with `actors.synchronous=true`, and by the real learner step in this process.
Both have no policy lag and no replay, so servers, sockets and several actors should make no difference. The numbers are the
mean return of the last 100 episodes, at the end and averaged over the run. p is exact, from a permutation test.
For environments with one agent.
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from statistics import fmean

import numpy as np

from benchmarks.learning import WINDOW, mean_with_interval, train
from benchmarks.one_process import OneProcess
from deploy.comparison.statistics import exact_p
from protocol.data.batch import Batch
from protocol.data.trajectory import Array
from recipes.resolve import resolve_run
from runner.metrics_table import read_lines
from runner.settings import RunSettings, prepared

ALIKE = ("actors.synchronous=true", "replay.fraction=0")
SYSTEM, PROCESS = "whole system", "one process"


class Returns:
    """Finds the returns of episodes that span batches.

    Args:
        copies: of the environment; row r of a batch comes from copy r % copies.
    """

    def __init__(self, copies: int) -> None:
        self.running = np.zeros(copies)

    def of(self, batch: Batch) -> list[float]:
        """The returns of the episodes that end in the next batch, in the order of their ends."""
        found: list[float] = []
        for first in range(0, len(batch.rewards), len(self.running)):
            rows = slice(first, first + len(self.running))
            ended_BT = batch.terminated[rows] | batch.truncated[rows]
            for rewards_B, ended_B in zip(batch.rewards[rows].T, ended_BT.T, strict=True):
                self.running += rewards_B
                found += self.running[ended_B].tolist()
                self.running[ended_B] = 0
        return found


def in_one_process(settings: RunSettings) -> list[float]:
    """Train in this process; returns the mean return of the last 100 episodes after each learner step."""
    settings = prepared(settings)[0]
    settings.actors.envs_per_actor *= settings.actors.count
    copies, batch_size = settings.actors.envs_per_actor, settings.trainer.batch_size
    if batch_size % copies:
        raise SystemExit(f"trainer.batch_size must be a multiple of all copies, {copies}, got {batch_size}")
    returns, last, means = Returns(copies), deque[float](maxlen=WINDOW), []
    with closing(OneProcess(settings)) as training:
        while training.env_steps < settings.trainer.total_timesteps:
            last.extend(returns.of(training.step()))
            if last:
                means.append(fmean(last))
    return means


def in_the_whole_system(recipe: str, assignments: Sequence[str], seed: int, folder: Path) -> list[float]:
    """The same by `oatmill train`; see `benchmarks.learning.train`."""
    train(recipe, assignments, seed, folder)
    means = (line["episode_return"]["mean"] for line in read_lines(folder))
    return [mean for mean in means if mean is not None]


def table(scores: Mapping[str, Sequence[Sequence[float]]]) -> Iterable[str]:
    """Mean and 95 % interval of both, and the p of their difference.

    Args:
        scores: for each of both, the means of each seed.
    """
    for name, score in (("final", lambda means: means[-1]), ("whole run", fmean)):
        by_arm: dict[str, Array] = {arm: np.array([score(means) for means in runs]) for arm, runs in scores.items()}
        yield f"{name:10} p {exact_p(by_arm[SYSTEM], by_arm[PROCESS]):.2g}"
        for arm, values in by_arm.items():
            yield f"  {arm:13} {mean_with_interval(values.tolist())}   {' '.join(f'{value:.1f}' for value in values)}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, help="default: runs/same-RECIPE")
    given = parser.parse_intermixed_args(arguments)
    assignments = [*ALIKE, *given.settings]
    out = given.out or Path("runs") / f"same-{given.recipe}"
    scores: dict[str, list[list[float]]] = {SYSTEM: [], PROCESS: []}
    for seed in range(given.seeds):
        try:
            scores[SYSTEM].append(in_the_whole_system(given.recipe, assignments, seed, out / f"seed-{seed}"))
        except ValueError as error:
            parser.error(str(error))
        flags = {"trainer.seed": seed, "actors.seed": seed}
        run = resolve_run(given.recipe, assignments, preset=None, config=None, flags=flags)
        scores[PROCESS].append(in_one_process(run.settings))
        print(f"seed {seed}: " + ", ".join(f"{arm} {runs[-1][-1]:.2f}" for arm, runs in scores.items()), flush=True)
    print("\n".join(table(scores)))


if __name__ == "__main__":
    main()
