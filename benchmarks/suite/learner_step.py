"""The learner step, compared with the same mathematics in one handwritten function.

It uses real trajectories of cogs_v_clips and cartpole, and one thread. `by hand` is
`benchmarks.handwritten`. A run measures the losses' gradients once every `metrics.gradient_every` updates.
`measured` is a step with one such measurement, so the average step of a run takes
`oatmill` + (`measured` - `oatmill`) x updates / gradient_every.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch

from benchmarks.handwritten import ByHand, all_losses_step, ppo_step
from benchmarks.harness import Arm, Effort, Figure, Rounds
from benchmarks.losses import ARMS, NEVER, make, settings_of
from benchmarks.real_batch import real_inputs
from learner.update.updater import Updater
from oatmill.settings.base import MetricsSettings

WARM_UP = True
RECIPES = ("cogs_v_clips", "cartpole")
COMPARED: Mapping[str, tuple[Any, float]] = {"baseline": (ppo_step, 1.05), "full": (all_losses_step, 1.10)}
RATE = 1e-4


def arms(effort: Effort, stack: ExitStack) -> dict[str, Arm]:  # noqa: ARG001  (the harness's signature)
    """Each set of losses. PPO and all five also by hand, and all five also with one measurement of gradients."""
    torch.set_num_threads(1)
    made: dict[str, Arm] = {}
    for recipe in RECIPES[:1] if effort.quick else RECIPES:
        for name, losses in ARMS.items():
            settings = settings_of(recipe, losses, plain=True)
            settings.trainer.optimizer.learning_rate = RATE
            spec, inputs = real_inputs(settings)
            updater = make(settings, spec)
            made[f"{recipe}: {name}"] = step_of(updater, inputs, measured=False)
            if name in COMPARED:
                hand = ByHand(updater.context.model, settings.trainer, settings.trainer.seed + 1)
                made[f"{recipe}: {name} by hand"] = hand_of(COMPARED[name][0], hand, inputs)
            if name == "full":
                made[f"{recipe}: full, measured"] = step_of(make(settings, spec), inputs, measured=True)
    return made


def step_of(updater: Updater, inputs: Mapping[str, torch.Tensor], *, measured: bool) -> Arm:
    """One learner step of oatmill."""

    def arm() -> dict[str, float]:
        updater.measured_at = updater.updates - (NEVER if measured else 0)
        updater.learn(inputs, learning_rate=RATE, report=False)
        return {}

    return arm


def hand_of(step: Any, hand: ByHand, inputs: Mapping[str, torch.Tensor]) -> Arm:
    """One learner step of the hand-written function."""

    def arm() -> dict[str, float]:
        step(hand, inputs)
        return {}

    return arm


def figures(rounds: Rounds) -> dict[str, Figure]:
    """Ratios to the handwritten version in CPU time and elapsed time, and the cost of each loss."""
    found: dict[str, Figure] = {}
    for recipe in RECIPES:
        if f"{recipe}: full" not in rounds.values:
            continue
        for name, (_, goal) in COMPARED.items():
            own, hand = f"{recipe}: {name}", f"{recipe}: {name} by hand"
            found[f"{own} / by hand, CPU"] = Figure(rounds.ratio(own, hand, "cpu_s"), "x", "lower", goal)
            found[f"{own} / by hand, wall"] = Figure(rounds.ratio(own, hand, "wall_s"), "x", "lower", goal)
        for name in ARMS:
            milliseconds = 1e3 * rounds.median(f"{recipe}: {name}", "cpu_s")
            found[f"{recipe}: {name}, a step"] = Figure(milliseconds, "ms CPU", "lower")
        once = rounds.ratio(f"{recipe}: full, measured", f"{recipe}: full", "cpu_s") - 1
        trainer = settings_of(recipe, {}, plain=True).trainer
        share = once * trainer.epochs * trainer.minibatches / MetricsSettings().gradient_every
        found[f"{recipe}: gradients measured every {MetricsSettings().gradient_every} updates"] = Figure(
            100 * share, "%", "lower"
        )
    return found
