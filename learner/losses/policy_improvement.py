"""CMPO's improved policy, exact or as weights of sampled actions, and the KL divergence to it.

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
    """Increase the probabilities of actions with an advantage above average.

    The prior probability of each action is multiplied by `exp` of its advantage, clipped to
    `[-clip, clip]`, and each factor is normalised. Clipping limits the change: the total variation
    distance to the prior is at most `tanh(clip / 2)`, even if the value estimates are wrong. No
    gradient flows through the result.

    Args:
        prior_log_probs_BTA: log-probabilities of the prior, in nats, normalised or not. -inf keeps
            probability 0.
        advantage_BTA: `(q(s, a) - v(s)) / sigma` of every action.
        sizes: the number of choices of each factor; by default there is one factor.
        clip: the largest magnitude of an advantage; greater than 0.

    Returns:
        Probabilities `[B, T, A]`; each factor's part of a row sums to one.

    Raises:
        ValueError: if `clip` is not a finite number above 0, or the shapes differ.

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


def kl_divergence(target_A: Tensor, log_probs_A: Tensor, entropy_A: Tensor) -> Tensor:
    """KL(target || policy) summed over factors, in nats.

    The target's entropy, `entropy_A`, does not depend on the policy. It can be computed once for many updates, and the KL
    and the cross-entropy have the same gradient.
    """
    return -(target_A * log_probs_A).sum(-1) - entropy_A


def entropy(policy_A: Tensor) -> Tensor:
    """The entropy of probabilities, summed over factors, in nats, with 0 log 0 = 0."""
    summands_A: Tensor = torch.special.xlogy(policy_A, policy_A)
    return -summands_A.sum(-1)


def leave_one_out_weights(advantage_BTN: Tensor, clip: float) -> Tensor:
    """w_i = e_i / z_i with e = exp(clip(advantage)) and z_i = (z_init + sum_{k != i} e_k) / N.

    The normaliser z_i does not depend on action i. The expected gradient therefore has the direction of
    the exact gradient and E[z / z_i] times its length. This does not hold if the baseline is the mean q
    of the sampled actions.

    Source: Hessel et al. 2021, arXiv:2104.06159, eq. 11 and 12.
    """
    e_BTN = advantage_BTN.clamp(-clip, clip).exp()
    z_BTN = (Z_INIT + e_BTN.sum(-1, keepdim=True) - e_BTN) / e_BTN.shape[-1]
    return e_BTN / z_BTN
