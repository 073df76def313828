"""Priorities of a batch's trajectories, by which the replay buffer samples."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def priorities_of(values: Mapping[str, Tensor]) -> Tensor:
    """The mean of |value target - V| over a row's valid steps, with V at the batch's start.

    A row without valid steps has priority 0. A row whose error is not finite also has priority 0, because
    its update would be skipped again.

    Args:
        values: the result of `Objective.prepare`. V is the trained network's value, or the prior
            network's value if the plan does not compute the trained one's.

    Returns:
        `[B]`, finite and at least 0.
    """
    value_BT1 = values["old_value_BT1"] if "old_value_BT1" in values else values["prior_value_BT1"]
    mask_BT = values["mask_BT"]
    error_BT = torch.where(mask_BT, (values["value_target_BT"] - value_BT1[:, :-1]).abs(), 0.0)
    mean_B = error_BT.float().sum(1) / mask_BT.sum(1).clamp(min=1)
    return mean_B.nan_to_num(nan=0.0, posinf=0.0)
