"""The KL from the trained policy to the policy at the batch's start, and to the policy that acted."""

from __future__ import annotations

from torch import Tensor

from learner.loss import Statistic


def policy_kls(
    log_prob_BT: Tensor, old_log_prob_BT: Tensor, behaviour_log_prob_BT: Tensor, mask_BT: Tensor
) -> dict[str, Statistic]:
    """The statistics `approx_kl` (since the batch's start) and `behaviour_kl`, in nats, by Schulman's k3 estimate.

    Args:
        log_prob_BT: of the taken action under the policy that is trained.
        old_log_prob_BT: under the policy at the batch's start.
        behaviour_log_prob_BT: under the policy that took it.
        mask_BT: the steps that count.
    """
    log_prob_BT = log_prob_BT.detach()
    return {
        "approx_kl": Statistic.later(divergence, (log_prob_BT, old_log_prob_BT), mask_BT),
        "behaviour_kl": Statistic.later(divergence, (log_prob_BT, behaviour_log_prob_BT), mask_BT),
    }


def divergence(log_prob: Tensor, from_log_prob: Tensor) -> Tensor:
    """Of one policy from another by an action of the other's: x - 1 - ln x of their ratio."""
    difference = log_prob - from_log_prob
    return difference.exp() - 1 - difference
