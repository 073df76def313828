"""Splits a batch into single steps, for `trainer.shuffle=steps` and `dynamics.start_fraction`."""

from __future__ import annotations

import torch
from torch import Tensor

from oatmill.errors import UserError


def by_step(name: str, value: Tensor, steps: int) -> Tensor:
    """A tensor with one row per step. The axes at the end of its name determine the conversion.

    `_BT...` becomes `[B * T, 1, ...]`. `_BT1`, which has one more step, becomes `[B * T, 2, ...]`: each
    step and the next one. `_B...`, one value or state per row, is repeated for each step of the row. A
    scalar is returned unchanged.

    Raises:
        UserError: if the name does not end with such axes.
    """
    if value.ndim == 0:
        return value
    axes = name.rpartition("_")[2]
    if axes == "BT1":
        return torch.stack([value[:, :-1], value[:, 1:]], 2).flatten(0, 1)
    if axes.startswith("BT"):
        return value.flatten(0, 1).unsqueeze(1)
    if axes.startswith("B"):
        return value.repeat_interleave(steps, 0)
    raise UserError(
        "trainer.shuffle=steps needs tensor names that end with their axes, such as _BT or _B (so does "
        f"dynamics.start_fraction), got {name}; rename it, or set trainer.shuffle to trajectories and start_fraction to 1"
    )
