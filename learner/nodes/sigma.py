"""Plan nodes that compute sigma, the running scale by which advantages are divided."""

from __future__ import annotations

from typing import TypedDict

from torch import Tensor

from learner.loss import Context, Node
from learner.nodes.return_estimators import bootstrap_values


class SigmaWrites(TypedDict):
    """The scale by which advantages are divided."""

    sigma: Tensor  # no axes


class Sigma(Node):
    """Sigma is the root mean square of R - v_prior, the errors of the prior's values, over recent batches.

    Source: Hessel et al. 2021, "Muesli", arXiv:2104.06159, section 4.5.
    """

    name = "sigma"

    def __init__(self, context: Context) -> None:
        self.advantage_scale = context.advantage_scale

    def prepare(self, *, value_target_BT: Tensor, prior_value_BT1: Tensor, mask_BT: Tensor) -> SigmaWrites:
        """Update sigma with this batch."""
        return {"sigma": self.advantage_scale.update(value_target_BT - prior_value_BT1[:, :-1], mask_BT)}


class OneStepWrites(SigmaWrites):
    """Sigma, and the advantages that it is the scale of."""

    one_step_advantage_BT: Tensor  # r + gamma v_prior(s') - v_prior(s) of the taken action, divided by sigma


class OneStepSigma(Sigma):
    """Sigma is the root mean square of r + gamma v_prior(s') - v_prior(s), the one-step advantage of the taken action."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.gamma = context.trainer.discount

    def prepare(  # type: ignore[override]
        self,
        *,
        rewards_BT: Tensor,
        terminated_BT: Tensor,
        truncated_BT: Tensor,
        prior_value_BT1: Tensor,
        prior_final_value_BT: Tensor,
        mask_BT: Tensor,
    ) -> OneStepWrites:
        """Compute the advantages and update sigma with this batch."""
        following_BT = bootstrap_values(prior_value_BT1[:, 1:], prior_final_value_BT, terminated_BT, truncated_BT)
        advantage_BT = rewards_BT + self.gamma * following_BT - prior_value_BT1[:, :-1]
        sigma = self.advantage_scale.update(advantage_BT, mask_BT)
        return {"sigma": sigma, "one_step_advantage_BT": advantage_BT / sigma}
