"""KL divergence to the trained policy from the policy at the batch's start and the behaviour policy."""

from __future__ import annotations

from torch import Tensor

from learner.loss import Statistic


def policy_kls(
    log_prob_BT: Tensor, old_log_prob_BT: Tensor, behaviour_log_prob_BT: Tensor, mask_BT: Tensor
) -> dict[str, Statistic]:
    """The statistics `approx_kl` and `behaviour_kl`, in nats, by Schulman's k3 estimator.

    Args:
        log_prob_BT: log-probabilities of the taken actions under the trained policy.
        old_log_prob_BT: their log-probabilities under the policy at the batch's start (`approx_kl`).
        behaviour_log_prob_BT: their log-probabilities under the policy that acted (`behaviour_kl`).
        mask_BT: the valid steps.
    """
    log_prob_BT = log_prob_BT.detach()
    return {
        "approx_kl": Statistic.later(divergence, (log_prob_BT, old_log_prob_BT), mask_BT),
        "behaviour_kl": Statistic.later(divergence, (log_prob_BT, behaviour_log_prob_BT), mask_BT),
    }


def divergence(log_prob: Tensor, from_log_prob: Tensor) -> Tensor:
    """k3 estimate of KL(other || policy) from an action of the other policy: r - 1 - ln r."""
    difference = log_prob - from_log_prob
    return difference.exp() - 1 - difference
