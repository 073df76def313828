"""Two gloo ranks with one core each, compared with one rank: samples per second of the learner step alone.

Every rank has its own whole batch (weak scaling), and all ranks start their steps together. Each rank is
bound to one core. A single rank is, too, so that it cannot use both cores. On a busy machine a rank waits
for the other one whenever another program uses its core. Then `steps_per_s` depends on that program, and
`CPU ratio` shows the work of the ranks themselves.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import torch

from benchmarks.harness import Arm, Effort, Figure, Rounds
from benchmarks.processes import answer_of, arguments_of, start_python
from benchmarks.real_batch import real_inputs
from oatmill.children.leaving import leave_at_once
from recipes.presets import PRESETS
from recipes.registry import find_recipe
from runner.overrides import Layer, resolve
from runner.settings import RunSettings

WARM_UP = False
GOAL = 1.7
AVERAGE_EVERY = 16
ARMS = {"1 ranks": (1, 1), "2 ranks": (2, 1), "2 ranks, weights": (2, AVERAGE_EVERY)}
"""The number of ranks and `trainer.average_every`: the last arm averages weights instead of gradients."""


def arms(effort: Effort, stack: ExitStack) -> dict[str, Arm]:  # noqa: ARG001  (the harness's signature)
    """One rank, two that average gradients, and two that average weights."""
    seconds = 0.2 if effort.quick else effort.seconds
    return {name: arm_of(ranks, every, seconds) for name, (ranks, every) in ARMS.items()}


def arm_of(world: int, average_every: int, seconds: float) -> Arm:
    """Start the ranks, run learner steps for some time, and combine the results."""

    def arm() -> dict[str, float]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        common = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        ranks = [
            start_python(
                "benchmarks.suite.ddp",
                str(seconds),
                str(average_every),
                extra=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank in range(world)
        ]
        found = [answer_of(rank) for rank in ranks]
        return {
            "samples_per_s": sum(one["samples"] / one["wall_s"] for one in found),
            "samples_per_cpu_s": sum(one["samples"] for one in found) / sum(one["cpu_s"] for one in found),
        }

    return arm


def settings_of_run() -> RunSettings:
    """The settings of cogs with all five losses."""
    settings = resolve(find_recipe("cogs_v_clips").settings().explicit(), [Layer(PRESETS["conservative"])])
    settings.trainer.device = "cpu"
    return settings


def rank_main(seconds: float, average_every: int) -> None:
    """Run one rank and print JSON."""
    from learner.ranks.meeting import joined  # noqa: PLC0415  (the parent needs no process group)
    from learner.setup import LearnerConfig, make_updater  # noqa: PLC0415

    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(os.environ["LOCAL_RANK"]) % len(cores)]})
    torch.set_num_threads(1)
    settings = settings_of_run()
    settings.trainer.average_every = average_every
    spec, inputs = real_inputs(settings)
    with joined(settings.trainer) as ranks:
        config = LearnerConfig(settings.trainer, settings.agent, settings.metrics, {}, "", Path())
        updater = make_updater(config, spec, ranks)
        updater.learn(inputs, learning_rate=1e-4, report=False)
        steps, going = 0, 1.0
        wall, cpu = time.perf_counter(), time.process_time()
        while going:
            updater.learn(inputs, learning_rate=1e-4, report=False)
            steps += 1
            (going,) = ranks.lowest(float(time.perf_counter() - wall < seconds))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    samples = steps * inputs["mask_BT"].numel()
    sys.stdout.write(json.dumps({"samples": samples, "wall_s": wall, "cpu_s": cpu}))


def figures(rounds: Rounds) -> dict[str, Figure]:
    """The ratio of two ranks to one."""
    return {
        "2 ranks / 1, samples a second": Figure(rounds.ratio("2 ranks", "1 ranks", "samples_per_s"), "x", "higher", GOAL),
        "2 ranks / 1, samples a CPU second": Figure(rounds.ratio("2 ranks", "1 ranks", "samples_per_cpu_s"), "x"),
        f"2 ranks / 1, weights averaged every {AVERAGE_EVERY} updates": Figure(
            rounds.ratio("2 ranks, weights", "1 ranks", "samples_per_s"), "x", "higher", GOAL
        ),
        "1 rank": Figure(rounds.median("1 ranks", "samples_per_s"), "samples/s"),
    }


if __name__ == "__main__":
    rank_main(*arguments_of(__doc__, seconds=float, average_every=int))
    leave_at_once(0)
