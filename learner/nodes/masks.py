"""Masks of the dynamics model's predictions: which of them have a target in the trajectory.

Let j >= t be the step at which the episode of step t ends (T - 1 if it goes on). The reward of model
step k is known if t + k - 1 <= j, and the state after it if t + k <= min(j, T - 1). At k = j - t + 1 an
ended episode is in its absorbing state: its value is 0 if the episode terminated, and unknown if it was
truncated. Later steps belong to the next episode.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class UnrollMasks(NamedTuple):
    """Masks for each step t and model step k = 1..K; all bool `[B, T, K]`."""

    reward: Tensor  # the reward at t + k - 1 was received in the episode of t
    value: Tensor  # the value at t + k is known: a target, or 0 after termination
    absorbing: Tensor  # the value at t + k is 0, because step t + k - 1 terminated the episode
    policy: Tensor  # s_{t+k} is a state of the same episode and trajectory


def unroll_masks(terminated_BT: Tensor, truncated_BT: Tensor, mask_BT: Tensor, model_steps: int) -> UnrollMasks:
    """The masks of K model steps from every step.

    Args:
        terminated_BT: whether the episode terminated at t.
        truncated_BT: whether the episode was truncated at t.
        mask_BT: the valid steps; False for absent agents and burn-in. Predictions from an invalid step
            or across one are masked.
        model_steps: K.
    """
    ends_BT = terminated_BT | truncated_BT
    reward, value, absorbing, policy = [], [], [], []
    alive_BT = mask_BT
    for k in range(1, model_steps + 1):
        reward.append(alive_BT)
        ended_BT = shift(ends_BT, k - 1, fill=True)
        absorbing.append(alive_BT & shift(terminated_BT, k - 1, fill=False))
        alive_BT = alive_BT & ~ended_BT & shift(mask_BT, k, fill=False)
        policy.append(alive_BT)
        value.append(alive_BT | absorbing[-1])
    return UnrollMasks(*(torch.stack(masks, -1) for masks in (reward, value, absorbing, policy)))


def shift(values_BT: Tensor, by: int, *, fill: float) -> Tensor:
    """Move values[:, t + by] to t; positions after the end get `fill`. Further axes are kept."""
    if by == 0:
        return values_BT
    steps = values_BT.shape[1]
    tail = torch.full_like(values_BT[:, : min(by, steps)], fill)
    return torch.cat([values_BT[:, by:], tail], 1)


def ahead(values_BT: Tensor, model_steps: int, *, first: int) -> Tensor:
    """values[:, t + first + k - 1] for k = 1..K, `[B, T, K, ...]`; 0 after the trajectory's end."""
    return torch.stack([shift(values_BT, first + k, fill=0) for k in range(model_steps)], 2)
