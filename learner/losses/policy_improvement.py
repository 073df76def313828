"""The policy improvement of CMPO: a prior tilted by clipped advantages, exactly or over drawn actions, and the KL to it.

Source: Hessel et al. 2021, "Muesli", arXiv:2104.06159, eq. 7, 11 and 12.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

import torch
from torch import Tensor

from agent import distribution

Z_INIT = 1.0
"""The leave-one-out normaliser's initial value."""


def clipped_mpo_policy(
    prior_log_probs_BTA: Tensor, advantage_BTA: Tensor, sizes: Sequence[int] | None = None, *, clip: float = 1.0
) -> Tensor:
    """Tilt the prior policy towards actions that look better than average.

    Each action's probability is multiplied by `exp` of its advantage, cut to `[-clip, clip]`, and each factor is made to
    sum to one. The cut bounds the step: the total variation to the prior is at most `tanh(clip / 2)`, however wrong the
    value estimates are. No gradient flows through the result.

    Args:
        prior_log_probs_BTA: log-probabilities of the prior (normalised or not), in nats; -inf stays at probability 0.
        advantage_BTA: `q(s, a) - v(s)` of every action, in units of return divided by its running standard deviation.
        sizes: choices of each factor; one factor if left out.
        clip: the largest advantage that counts, in those units; greater than 0.

    Returns:
        Probabilities, `[B, T, A]`; each factor's part of a row sums to one.

    Raises:
        ValueError: if `clip` is not a finite number above 0, or the shapes differ: an advantage of `[B, T]` would tilt all
            actions alike and give the prior back.

    Source: Hessel et al. 2021, arXiv:2104.06159, eq. 7 and theorem 4.1.
    """
    if not (isfinite(clip) and clip > 0):
        raise ValueError(f"clip must be a finite number above 0, got {clip}")
    if prior_log_probs_BTA.shape != advantage_BTA.shape:
        raise ValueError(
            f"expected an advantage for every action, {tuple(prior_log_probs_BTA.shape)}, got {tuple(advantage_BTA.shape)}"
        )
    tilted = prior_log_probs_BTA.detach() + advantage_BTA.detach().clamp(-clip, clip)
    return distribution.log_softmax(tilted, sizes or (tilted.shape[-1],)).exp()


def kl_divergence(target_A: Tensor, log_probs_A: Tensor) -> tuple[Tensor, Tensor]:
    """KL(target || policy) summed over factors, and the target's entropy; a target of 0 adds nothing.

    The entropy is a constant, so the KL's gradient is the cross-entropy's.
    """
    target_entropy = entropy(target_A)
    return -(target_A * log_probs_A).sum(-1) - target_entropy, target_entropy


def entropy(policy_A: Tensor) -> Tensor:
    """Of probabilities, summed over factors, in nats; 0 log 0 = 0."""
    summands_A: Tensor = torch.special.xlogy(policy_A, policy_A)
    return -summands_A.sum(-1)


def leave_one_out_weights(advantage_BTN: Tensor, clip: float) -> Tensor:
    """w_i = e_i / z_i with e = exp(clip(advantage)) and z_i = (z_init + sum_{k != i} e_k) / N.

    Leaving i out of its own normaliser makes it independent of action i, so that the expected gradient points where the exact
    one does; its size is E[z / z_i] times the exact one's. A baseline that is the mean of the drawn q gives that up.

    Source: Hessel et al. 2021, arXiv:2104.06159, eq. 11 and 12.
    """
    e_BTN = advantage_BTN.clamp(-clip, clip).exp()
    z_BTN = (Z_INIT + e_BTN.sum(-1, keepdim=True) - e_BTN) / e_BTN.shape[-1]
    return e_BTN / z_BTN
