"""Which predictions of the latent model are about something that really happened.

From a step t with its episode's first end at j >= t (or none before T), the reward of model step k is real while
t + k - 1 <= min(j, T - 1); the state after it exists while t + k <= min(j, T - 1). At k = j - t + 1 the state is absorbing: its
return is 0 if the episode terminated, unknown if it was truncated. Everything after that is another episode's.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class UnrollMasks(NamedTuple):
    """Of each step t and model step k = 1..K; all `[B, T, K]`, bool."""

    reward: Tensor  # the reward at t + k - 1 was received in the episode of t
    value: Tensor  # the return from t + k is known: a target, or 0 after termination
    absorbing: Tensor  # it is known to be 0, because step t + k - 1 terminated the episode
    policy: Tensor  # s_{t+k} is a state of the episode of t within the trajectory


def unroll_masks(terminated_BT: Tensor, truncated_BT: Tensor, mask_BT: Tensor, model_steps: int) -> UnrollMasks:
    """The masks of K model steps from every step.

    Args:
        terminated_BT: the episode ended at t and has no future.
        truncated_BT: the episode was cut after t.
        mask_BT: False where a step does not count (an absent agent, burn-in); nothing is predicted from or through it.
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
    """values[:, t + by] at t, and `fill` where that lies behind the end. Further axes are kept."""
    if by == 0:
        return values_BT
    steps = values_BT.shape[1]
    tail = torch.full_like(values_BT[:, : min(by, steps)], fill)
    return torch.cat([values_BT[:, by:], tail], 1)


def ahead(values_BT: Tensor, model_steps: int, *, first: int) -> Tensor:
    """values[:, t + first + k - 1] for k = 1..K: `[B, T, K, ...]`, 0 where that lies behind the end."""
    return torch.stack([shift(values_BT, first + k, fill=0) for k in range(model_steps)], 2)
