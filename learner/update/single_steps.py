"""A batch taken apart into single steps, for minibatches that are drawn from all of it (`trainer.shuffle=steps`)."""

from __future__ import annotations

import torch
from torch import Tensor

from oatmill.errors import UserError


def by_step(name: str, value: Tensor, steps: int) -> Tensor:
    """A batch's tensor with its steps in front, by the axes that its name ends with.

    `_BT...` becomes `[B * T, 1, ...]`; `_BT1`, which has one more step, `[B * T, 2, ...]`: the step and the one after it.
    A row's number or state, `_B...`, is repeated for each of its steps; a scalar stays.
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
        f"trainer.shuffle=steps reads a tensor's axes from the end of its name, such as _BT or _B, and {name} has none there; "
        "rename it, or set trainer.shuffle to trajectories"
    )
