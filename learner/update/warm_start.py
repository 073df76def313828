"""Warm starts: weights and statistics of another run, by name, and parts of the network that are not trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from agent.checkpoint_manifest import MODEL_FILE, find_checkpoint, read_manifest
from agent.loading import loading
from agent.model import AgentModel, saved_tensors
from oatmill.errors import UserError, asked_by

PARTS = {
    "encoder": ("encoder.",),
    "core": ("core.",),
    "policy": ("policy.",),
    "value": ("value.",),
    "dynamics": ("transition.", "model_"),
    "normaliser": ("normaliser.",),
}
"""The parts of a network that `trainer.freeze_parts` may name: the start of their parameters' names."""
NAMED = 4
"""How many parameters a message names."""


def warm_start(model: AgentModel, source: str, *, partial: bool) -> str:
    """Copy weights and the normaliser's statistics from a checkpoint to the parameters of the same name and shape.

    Args:
        model: a new network; changed in place.
        source: a run folder (its newest checkpoint is taken), or a checkpoint.
        partial: whether parameters may stay as they are, because the checkpoint does not have them in this shape.

    Returns:
        One line that says what was taken over.

    Raises:
        UserError: if there is no such checkpoint, nothing fits, or something does not fit and `partial` is false.
    """
    with asked_by("trainer.init_from"):
        checkpoint = find_checkpoint(Path(source))
        manifest = read_manifest(checkpoint)
    own = saved_tensors(model)
    with loading(checkpoint), torch.no_grad():
        stored = load_file(checkpoint / MODEL_FILE)
        fitting = [name for name in own if name in stored and stored[name].shape == own[name].shape]
        unfit = misfits(own, stored)
        if not fitting:
            raise UserError(
                f"trainer.init_from={source}: no parameter of this network matches one of that checkpoint by name and shape"
            )
        if unfit and not partial:
            raise UserError(
                f"trainer.init_from={source} does not fit: {listed(unfit)}; use the settings that it was trained with, or set "
                "trainer.init_partial=true to take over the rest"
            )
        for name in fitting:
            own[name].copy_(stored[name])
        if model.normaliser is not None:
            model.normaliser.refresh()
    done = f"{len(fitting)} of {len(own)} arrays of the network start as in {checkpoint}"
    rest = f"; these do not fit: {listed(unfit)}" if unfit else ""
    return f"{done} ({manifest['env_steps']:,} env steps){rest}"


def misfits(own: dict[str, Tensor], stored: dict[str, Tensor]) -> list[str]:
    """What a network and a file do not have in common, one phrase per array."""
    found = []
    for name in sorted(own.keys() | stored.keys()):
        here, there = (str(list(side[name].shape)) if name in side else "nothing" for side in (own, stored))
        if here != there:
            found.append(f"{name} (expected {here}, got {there})")
    return found


def listed(phrases: Sequence[str]) -> str:
    """The first phrases, and how many more there are."""
    more = f" and {len(phrases) - NAMED} more" if len(phrases) > NAMED else ""
    return ", ".join(phrases[:NAMED]) + more


def freeze(model: AgentModel, parts: Sequence[str]) -> None:
    """Take parts of the network out of training; they keep the values that they have.

    Args:
        model: its parameters' `requires_grad` is changed. A frozen normaliser is up to `ObservationStatistics`.
        parts: of `PARTS`.

    Raises:
        UserError: if the network does not have such a part, or nothing is left to train.
    """
    names = saved_tensors(model)
    for part in parts:
        if not any(name.startswith(PARTS[part]) for name in names):
            have = [other for other, starts in PARTS.items() if any(name.startswith(starts) for name in names)]
            raise UserError(f"trainer.freeze_parts names {part}, which this network does not have; it has {', '.join(have)}")
    frozen = tuple(start for part in parts for start in PARTS[part])
    trained = 0
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and not name.startswith(frozen))
        trained += parameter.requires_grad
    if not trained:
        raise UserError(f"trainer.freeze_parts={list(parts)} leaves no parameter that a loss trains; freeze fewer parts")
