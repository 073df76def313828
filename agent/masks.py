"""Action masks: choices that are not allowed have probability 0, in acting and in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from agent.distribution import factor_sums
from protocol.data.spaces import ACTION_MASK, MASKED_LOGIT


def allowed_of(observations: Any) -> Tensor | None:
    """The mask in a Dict observation, bool `[..., A]`; None without one."""
    return observations.get(ACTION_MASK) if isinstance(observations, dict) else None


def allowed_in(observations_BT1: Any) -> Tensor | None:
    """The masks of the T steps in which an action was taken, bool `[B, T, A]`; None without them."""
    allowed_BT1A = allowed_of(observations_BT1)
    return None if allowed_BT1A is None else allowed_BT1A[:, :-1]


def masked(logits: Tensor, allowed: Tensor | None) -> Tensor:
    """Lower the logits of choices that are not allowed, so that their probability is exactly 0.

    The number is low and finite: 0 times it is 0, where 0 times minus infinity would be NaN. No gradient flows into a logit
    that was lowered. Where a mask allows nothing, as it may where no agent acts, all choices are equally likely.

    Args:
        logits: `[..., A]`; further columns, which are no logits, stay as they are.
        allowed: bool `[..., A]`; None allows all.
    """
    if allowed is None:
        return logits
    further = logits.shape[-1] - allowed.shape[-1]
    if further:
        allowed = torch.cat([allowed, allowed.new_ones(*allowed.shape[:-1], further)], -1)
    return torch.where(allowed, logits, MASKED_LOGIT)


def uniform_entropy(log_probs: Tensor, sizes: Sequence[int]) -> Tensor:
    """The entropy of a policy that chooses evenly among what is allowed, `[...]`, in nats.

    Args:
        log_probs: `[..., A]` of a masked policy.
        sizes: the factors' numbers of choices.
    """
    allowed = (log_probs > MASKED_LOGIT / 2).float()
    return factor_sums(allowed, sizes).log().sum(-1)


def following(allowed_BTA: Tensor, model_steps: int, steps: int) -> Tensor:
    """The masks of the states that follow each step in 1..K: `[B, T, K, A]`. Behind the last one, that stands in.

    Args:
        allowed_BTA: of T steps, or of more where those that follow are known.
        model_steps: K.
        steps: T.
    """
    index = torch.arange(steps, device=allowed_BTA.device).unsqueeze(1) + torch.arange(
        1, model_steps + 1, device=allowed_BTA.device
    )
    return allowed_BTA[:, index.clamp(max=allowed_BTA.shape[1] - 1)]
