"""How much there is to learn from each trajectory of a batch: what the replay buffer draws by."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def priorities_of(values: Mapping[str, Tensor]) -> Tensor:
    """The mean over valid steps of |value target - V|, V as it was at the batch's start.

    A row without valid steps has nothing to learn from: 0. So has one whose error is not finite, for it would only be skipped
    again.

    Args:
        values: what `Objective.prepare` gave. V is the learner's own, or the prior's where nobody asks for the learner's.

    Returns:
        `[B]`, finite and 0 or more.
    """
    value_BT1 = values["old_value_BT1"] if "old_value_BT1" in values else values["prior_value_BT1"]
    mask_BT = values["mask_BT"]
    error_BT = torch.where(mask_BT, (values["value_target_BT"] - value_BT1[:, :-1]).abs(), 0.0)
    mean_B = error_BT.float().sum(1) / mask_BT.sum(1).clamp(min=1)
    return mean_B.nan_to_num(nan=0.0, posinf=0.0)
