"""How far a policy has moved: from the one at the batch's start, and from the one that acted."""

from __future__ import annotations

import torch
from torch import Tensor

from learner.loss import Statistic, Term


@torch.no_grad()
def movement(
    log_prob_BT: Tensor, old_log_prob_BT: Tensor, behaviour_log_prob_BT: Tensor, mask_BT: Tensor
) -> dict[str, Term | Statistic]:
    """The statistics `approx_kl` (since the batch's start) and `behaviour_kl`, in nats, by Schulman's k3 estimate.

    Args:
        log_prob_BT: of the taken action under the policy that is trained.
        old_log_prob_BT: under the policy at the batch's start.
        behaviour_log_prob_BT: under the policy that took it.
        mask_BT: the steps that count.
    """
    since_BT, behaviour_BT = log_prob_BT - old_log_prob_BT, log_prob_BT - behaviour_log_prob_BT
    return {
        "approx_kl": Statistic(since_BT.exp() - 1 - since_BT, mask_BT),
        "behaviour_kl": Statistic(behaviour_BT.exp() - 1 - behaviour_BT, mask_BT),
    }
