"""The learner step on a CUDA device: Pong's images and cogs' tokens, in float32, in bfloat16 and compiled.

`by hand` is `benchmarks.handwritten`'s PPO in float32. Inputs are on the device before the clock starts; `transfer` is
the time that a batch takes to get there. Pong needs `oatmill[atari]` and cogs `oatmill[cogs]`; a recipe whose package is
missing is left out. Without a CUDA device there is nothing to measure, except with --quick, which runs everything on the CPU.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from benchmarks.handwritten import ByHand, ppo_step
from benchmarks.harness import Arm, Effort, Figure, Rounds
from benchmarks.losses import ARMS, NEVER, settings_of
from benchmarks.real_batch import real_batch
from learner.ranks.reduce import OneRank, Ranks
from learner.setup import LearnerConfig, make_updater
from learner.update.inputs import to_inputs
from learner.update.updater import Updater
from oatmill.errors import UserError
from oatmill.settings.base import MetricsSettings

WARM_UP = True
RECIPES = ("atari_pong", "cogs_v_clips")
FORMS: Mapping[str, Mapping[str, Any]] = {
    "float32": {"precision": "float32"},
    "bfloat16": {"precision": "bfloat16"},
    "compiled": {"precision": "float32", "compile": True},
}
RATE = 1e-4
MIB = 2**20


def arms(effort: Effort, stack: ExitStack) -> dict[str, Arm]:  # noqa: ARG001  (the harness's signature)
    """PPO in each form and by hand, all five losses, and the transfer of a batch."""
    if not (torch.cuda.is_available() or effort.quick):
        sys.stderr.write("benchmarks: gpu: no CUDA device here, so nothing was measured; --quick runs it on the CPU\n")
        return {}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    made: dict[str, Arm] = {}
    for recipe in RECIPES:
        try:
            made |= arms_of(recipe, device, effort)
        except (ImportError, UserError) as error:
            sys.stderr.write(f"benchmarks: gpu: {recipe} was left out: {error}\n")
    return made


def arms_of(recipe: str, device: torch.device, effort: Effort) -> dict[str, Arm]:
    """A recipe's arms."""
    settings = settings_of(recipe, {}, plain=True)
    if effort.quick:
        settings.trainer.epochs = 1
    spec, batch = real_batch(settings, trajectories=settings.trainer.minibatches if effort.quick else None)
    inputs = cast("dict[str, Tensor]", to_inputs(batch, spec, settings.trainer, device))

    def updater(losses: Mapping[str, Any], form: str) -> Updater:
        trainer = settings_of(recipe, dict(losses), plain=True).trainer.model_copy(update=dict(FORMS[form]))
        trainer.epochs = settings.trainer.epochs
        config = LearnerConfig(trainer, settings.agent, MetricsSettings(gradient_every=NEVER), {}, "", Path())
        return make_updater(config, spec, Ranks(0, 1, device, OneRank()))

    forms = [form for form in FORMS if form != "compiled" or device.type == "cuda"]
    learners = {f"PPO, {form}": updater({}, form) for form in forms} | {
        "five losses, float32": updater(ARMS["full"], "float32")
    }
    work: dict[str, Callable[[], object]] = {
        name: partial(learner.learn, inputs, learning_rate=RATE, report=False) for name, learner in learners.items()
    }
    hand = ByHand(updater({}, "float32").context.model, settings.trainer, settings.trainer.seed + 1)
    hand.generator = torch.Generator(device).manual_seed(0)
    work["by hand"] = partial(ppo_step, hand, inputs)
    work["transfer"] = partial(to_inputs, batch, spec, settings.trainer, device)
    steps = float(batch.valid.sum())
    return {f"{recipe}: {name}": on_the_clock(one, device, steps) for name, one in work.items()}


def on_the_clock(work: Callable[[], object], device: torch.device, steps: float) -> Arm:
    """An arm that waits until the device has finished, and notes the env steps and the most memory that was in use."""

    def arm() -> dict[str, float]:
        if device.type != "cuda":
            work()
            return {"steps": steps, "peak_mib": 0.0}
        torch.cuda.reset_peak_memory_stats(device)
        work()
        torch.cuda.synchronize(device)
        return {"steps": steps, "peak_mib": torch.cuda.max_memory_allocated(device) / MIB}

    return arm


def figures(rounds: Rounds) -> dict[str, Figure]:
    """Env steps a second, peak memory, and each form as a ratio to the handwritten PPO."""
    found: dict[str, Figure] = {}
    for name in rounds.values:
        speed = rounds.median(name, "steps") / rounds.median(name, "wall_s")
        found[name] = Figure(speed, "steps/s")
        found[f"{name}, peak memory"] = Figure(rounds.median(name, "peak_mib"), "MiB", "lower")
        recipe, _, arm = name.partition(": ")
        if arm.startswith("PPO"):
            found[f"{name} / by hand"] = Figure(rounds.ratio(name, f"{recipe}: by hand", "wall_s"), "x", "lower")
    return found
