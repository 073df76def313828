"""The time of each loss in a learner step, and of measuring the losses' gradients: `python -m benchmarks.losses [RECIPE]`.

It uses one process with one thread, and artificial batches with the recipe's shapes. Rounds are interleaved,
and the median of the processor time is reported, so that other work on the machine changes all rows equally.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, cast

import torch
from torch import Tensor

from actors.environments.make import describe
from agent.spec import AgentSpec
from learner.cost import one_trajectory
from learner.ranks.reduce import OneRank, Ranks
from learner.setup import LearnerConfig, make_updater
from learner.step_time import copies
from learner.update.updater import Updater
from oatmill.settings.base import MetricsSettings
from protocol.data.observations import each
from recipes.registry import find_recipe
from runner.overrides import Layer, resolve
from runner.settings import RunSettings

NEVER = 10**9
ON = {"enabled": True}
ARMS: dict[str, dict[str, Any]] = {
    "critic": {"ppo_actor": {"enabled": False}},
    "baseline": {},
    "+ cmpo": {"cmpo": ON},
    "+ muesli_model": {"muesli_model": ON},
    "+ dynamics": {"dynamics": ON},
    "full": {"cmpo": ON, "muesli_model": ON, "dynamics": ON},
}
PARTS = {
    f"full, {name}={value}": ARMS["full"] | {"dynamics": ON | {name: value}}
    for name, value in (("start_fraction", 0.5), ("start_fraction", 0.25), ("update_every", 4), ("update_every", 8))
}


PLAIN: dict[str, Any] = {"minibatches": 4, "shuffle": "trajectories", "normalize_returns": False}
"""What the handwritten learner step does, whatever the recipe does, so that figures of several dates can be compared."""


def settings_of(recipe: str, losses: dict[str, Any], *, plain: bool = False) -> RunSettings:
    """A recipe's settings with some losses enabled; `plain` for a comparison with the handwritten learner step."""
    trainer = (PLAIN if plain else {}) | {"losses": losses}
    return resolve(find_recipe(recipe).settings().explicit(), [Layer({"trainer": trainer})])


def make(settings: RunSettings, spec: AgentSpec) -> Updater:
    """Create the learner's networks and optimiser."""
    metrics = MetricsSettings(gradient_every=NEVER)
    config = LearnerConfig(settings.trainer, settings.agent, metrics, {}, "", Path())
    return make_updater(config, spec, Ranks(0, 1, torch.device("cpu"), OneRank()))


def batch_of(settings: RunSettings, spec: AgentSpec) -> dict[str, Tensor]:
    """An artificial batch."""
    size = settings.trainer.batch_size
    inputs = cast("dict[str, Tensor]", one_trajectory(spec, settings.actors.unroll_length))
    whole = ("final_observations", "final_trajectory", "final_step")
    return {n: value if n in whole else each(partial(copies, rows=size), value) for n, value in inputs.items()}


def seconds_of(updater: Updater, inputs: dict[str, Tensor], *, measured: bool = False) -> float:
    """Processor time of one learner step in seconds, with or without one measurement of the losses' gradients."""
    updater.measured_at = updater.updates - (NEVER if measured else 0)
    started = time.process_time()
    updater.learn(inputs, learning_rate=1e-4, report=False)
    return time.process_time() - started


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", nargs="?", default="cogs_v_clips")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs = {}
    for name, losses in (ARMS | PARTS).items():
        settings = settings_of(arguments.recipe, losses)
        spec = AgentSpec(describe(settings.env)[0], settings.agent)
        runs[name] = (make(settings, spec), batch_of(settings, spec))
    seconds: dict[str, list[float]] = {name: [] for name in [*runs, "full, gradients measured once"]}
    for _ in range(arguments.rounds + 1):
        for name, (updater, inputs) in runs.items():
            seconds[name].append(seconds_of(updater, inputs))
        seconds["full, gradients measured once"].append(seconds_of(*runs["full"], measured=True))
    result = {name: median(values[1:]) for name, values in seconds.items()}  # the first round is a warm-up
    trainer, every = settings.trainer, MetricsSettings().gradient_every
    updates = trainer.epochs * trainer.minibatches
    once = result["full, gradients measured once"] - result["full"]
    share = once * updates / every / result["full"]
    if arguments.json:
        print(json.dumps({"recipe": arguments.recipe, "seconds": result, "updates": updates, "gradient_share": share}))
        return
    print(f"{arguments.recipe}: a learner step of {updates} updates, median of {arguments.rounds} rounds, one thread")
    for name, value in result.items():
        print(f"  {name:<30} {1e3 * value:8.1f} ms  {value / result['baseline']:5.2f} x baseline")
    print(f"  measuring costs {1e3 * once:.1f} ms = {once * updates / result['full']:.2f} updates; every {every}: {share:.1%}")


if __name__ == "__main__":
    main()
