"""The roofline of images: Pong, four frames of 84x84, and pictures of 64x64 in colour (`benchmarks/picture_game.py`).

The parts and the whole run are those of `roofline`. In addition, the bare network: forward, back and torch's
Adam on a minibatch of real frames in one thread, in bfloat16, and in float32 with and without
another order in memory. It has no losses, no statistics and
no batches to cut, so `whole run / bare network` shows the part of a run's time that is not the network. The
bare network's speed is given in env steps: samples divided by `trainer.epochs`.

Pong needs `oatmill[atari]`. Without the name `images`, `python -m benchmarks` leaves it out.
"""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch import Tensor

from agent.encoders import StridedEncoder
from agent.images.pixels import standardised
from agent.model import AgentModel
from benchmarks.harness import Arm, Effort, Figure, Rounds
from benchmarks.real_batch import real_inputs
from benchmarks.suite.roofline import arms_of, figures_of
from recipes.registry import find_recipe
from runner.settings import RunSettings

WARM_UP = False
RECIPES = {"atari_pong": 8_000, "benchmarks.picture_game:settings": 20_000}
FORMS = ("float32", "bfloat16", "float32, plain order")
"""Precisions; the last is float32 with images as they come, channel by channel."""
ROWS = 256
"""Of a minibatch, as in both recipes."""


def arms(effort: Effort, stack: ExitStack) -> dict[str, Arm]:
    """Those of the roofline, and the bare network in both precisions."""
    made = arms_of(RECIPES, effort, stack)
    for recipe in RECIPES:
        if f"{recipe}: whole" in made:
            settings = find_recipe(recipe).settings()
            made |= {f"{recipe}: bare {form}": bare(settings, effort, form) for form in FORMS}
    return made


def bare(settings: RunSettings, effort: Effort, form: str) -> Arm:
    """Forward, back and Adam."""
    spec, inputs = real_inputs(settings)
    frames = inputs["observations_BT1"].flatten(0, 1)[:ROWS]
    torch.manual_seed(0)
    model = AgentModel(spec)
    model.in_bfloat16 = form == "bfloat16"
    encoder = model.encoder
    assert isinstance(encoder, StridedEncoder)
    trained = [*model.encoder.parameters(), *model.policy.parameters(), *model.value.parameters()]
    optimizer = torch.optim.Adam(trained, lr=1e-4)
    updates = 1 if effort.quick else max(2, int(effort.seconds * 8))

    def arm() -> dict[str, float]:
        for _ in range(updates):
            latent = plain(encoder, frames) if form.endswith("plain order") else model.encode(frames)
            loss = model.policy(latent).square().mean() + model.value(latent).square().mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return {"steps": updates * len(frames) / settings.trainer.epochs}

    return arm


def plain(encoder: StridedEncoder, frames: Tensor) -> Tensor:
    """What an encoder gives, computed without another order in memory."""
    encoded: Tensor = encoder.layers(encoder.convolutions(standardised(frames, encoder.scale)).flatten(1))
    return encoded


def figures(rounds: Rounds) -> dict[str, Figure]:
    """Those of the roofline; the bare network's speed, and the part of it that the whole run reaches."""
    found = figures_of(RECIPES, rounds)
    for recipe in RECIPES:
        if f"{recipe}: whole" not in rounds.values:
            continue
        reached = rounds.median(f"{recipe}: whole", "steps_per_s")
        for form in FORMS:
            name = f"{recipe}: bare {form}"
            speed = rounds.median(name, "steps") / rounds.median(name, "cpu_s")
            found[f"{recipe}: bare network, {form}"] = Figure(speed, "steps/CPU s")
            found[f"{recipe}: whole run / bare network, {form}"] = Figure(reached / speed, "x")
    return found
