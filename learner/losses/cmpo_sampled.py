"""CMPO with actions sampled from the prior policy: for large action spaces, and for those with numbers.

Source: Hessel et al. 2021, "Muesli", arXiv:2104.06159, eq. 11 and 12.
"""

from __future__ import annotations

from typing import TypedDict

import torch
from torch import Tensor

from agent import distribution
from learner.loss import Context, Loss, Statistic, Term, Terms, itself
from learner.losses.policy_improvement import leave_one_out_weights


class SampledCmpoWrites(TypedDict):
    """The target as weights of sampled actions; constant during the batch's updates."""

    cmpo_policy_BTA: Tensor  # the sampled actions' weights, normalised to sum to one
    cmpo_entropy_BT: Tensor  # an estimate of the full CMPO policy's entropy, in nats
    cmpo_weights_BTN: Tensor  # exp(clipped advantage) / leave-one-out normaliser
    cmpo_sampled_advantage_BTN: Tensor


class SampledCmpo(Loss):
    """The KL estimated from N actions sampled from the prior policy, for large action spaces.

    Source: Hessel et al. 2021, arXiv:2104.06159, eq. 12.
    """

    name = "cmpo"

    def __init__(self, context: Context) -> None:
        self.settings = context.trainer.losses.cmpo
        self.sizes = context.sizes
        self.policies = context.policies
        self.expected_baseline = self.settings.baseline == "prior_expected_q"

    def prepare(
        self,
        *,
        prior_log_probs_BTA: Tensor,
        prior_actions_BTN: Tensor,
        prior_sampled_q_BTN: Tensor,
        prior_value_BT1: Tensor,
        sigma: Tensor,
    ) -> SampledCmpoWrites:
        """Compute the sampled actions' weights and the policy that they form."""
        advantage_BTN = self.advantages(prior_sampled_q_BTN, prior_value_BT1, sigma)
        weights_BTN = leave_one_out_weights(advantage_BTN, self.settings.advantage_clip)
        policy_BTA = weights_BTN.new_zeros(*weights_BTN.shape[:-1], sum(self.sizes))
        for factor in range(prior_actions_BTN.shape[-1]):
            policy_BTA.scatter_add_(-1, prior_actions_BTN[..., factor], weights_BTN)
        return {
            "cmpo_policy_BTA": policy_BTA / weights_BTN.sum(-1, keepdim=True),
            "cmpo_entropy_BT": drawn_entropy(weights_BTN, taken(prior_log_probs_BTA, prior_actions_BTN)),
            "cmpo_weights_BTN": weights_BTN,
            "cmpo_sampled_advantage_BTN": advantage_BTN,
        }

    def advantages(self, q_BTN: Tensor, prior_value_BT1: Tensor, sigma: Tensor) -> Tensor:
        """The sampled actions' advantages, divided by sigma and the temperature."""
        value_BT = q_BTN.mean(-1) if self.expected_baseline else prior_value_BT1[:, :-1]
        return (q_BTN - value_BT.unsqueeze(-1)) / (sigma * self.settings.temperature)

    def measure(
        self,
        *,
        prior_value_BT1: Tensor,
        prior_sampled_q_BTN: Tensor,
        prior_taken_q_BT: Tensor,
        cmpo_sampled_advantage_BTN: Tensor,
        cmpo_weights_BTN: Tensor,
        sigma: Tensor,
        advantage_BT: Tensor,
        mask_BT: Tensor,
        fresh_B: Tensor,
    ) -> dict[str, Statistic]:
        """Statistics of the sampled advantages; `total_variation` estimates 1/2 E_prior |w - 1|."""
        advantage, expected_BT = cmpo_sampled_advantage_BTN, prior_sampled_q_BTN.mean(-1)
        of_taken_BT = prior_taken_q_BT - expected_BT
        values = {
            "adv_mean": advantage.mean(-1),
            "adv_std": advantage.std(-1, correction=0),
            "advantage_clipped": (advantage.abs() > self.settings.advantage_clip).float().mean(-1),
            "total_variation": 0.5 * (cmpo_weights_BTN - 1).abs().mean(-1),
            "baseline_offset": (expected_BT - prior_value_BT1[:, :-1]).abs() / sigma,
            "sigma": sigma.expand_as(mask_BT),
        }
        fresh_BT = mask_BT & fresh_B[:, None]
        return {name: Statistic(value, mask_BT) for name, value in values.items()} | {
            "advantage_agreement": Statistic(agreement(of_taken_BT, advantage_BT, fresh_BT), fresh_BT)
        }

    def compute(
        self,
        *,
        logits_BTA: Tensor,
        prior_log_probs_BTA: Tensor,
        prior_actions_BTN: Tensor,
        cmpo_weights_BTN: Tensor,
        cmpo_policy_BTA: Tensor,
        cmpo_entropy_BT: Tensor,
        mask_BT: Tensor,
    ) -> Terms:
        """The term `kl`, an estimate whose gradient is that of eq. 12, and the same two statistics.

        kl = 1/N sum_i w_i (log w_i + log prior(a_i) - log pi(a_i)).
        """
        log_probs_BTA = distribution.log_softmax(logits_BTA.float(), self.sizes)
        log_ratio_BTN = taken(prior_log_probs_BTA - log_probs_BTA, prior_actions_BTN)
        kl_BT = (cmpo_weights_BTN * (cmpo_weights_BTN.log() + log_ratio_BTN)).mean(-1)
        return {
            "kl": Term(kl_BT, mask_BT, self.settings.kl_coef),
            "cross_entropy": Statistic.later(cross_entropy, (cmpo_policy_BTA, log_probs_BTA.detach()), mask_BT),
            "target_entropy": Statistic.later(itself, (cmpo_entropy_BT,), mask_BT),
        }


class DrawnCmpoWrites(TypedDict):
    """The target as weights of sampled actions; constant during the batch's updates."""

    cmpo_entropy_BT: Tensor  # an estimate of the full CMPO policy's entropy, in nats
    cmpo_weights_BTN: Tensor  # exp(clipped advantage) / leave-one-out normaliser
    cmpo_sampled_advantage_BTN: Tensor
    cmpo_log_prior_BTN: Tensor  # the prior's log-probability of each sampled action


class DrawnCmpo(SampledCmpo):
    """The same for actions with numbers: the target is the sampled actions and their weights, not a row of probabilities.

    Source: Hessel et al. 2021, arXiv:2104.06159, eq. 12.
    """

    def prepare(  # type: ignore[override]
        self,
        *,
        prior_log_probs_BTA: Tensor,
        prior_actions_BTN: Tensor,
        prior_sampled_q_BTN: Tensor,
        prior_value_BT1: Tensor,
        sigma: Tensor,
    ) -> DrawnCmpoWrites:
        """Compute the sampled actions' weights and the prior's log-probabilities."""
        advantage_BTN = self.advantages(prior_sampled_q_BTN, prior_value_BT1, sigma)
        weights_BTN = leave_one_out_weights(advantage_BTN, self.settings.advantage_clip)
        log_prior_BTN = self.policies.log_prob(prior_log_probs_BTA.unsqueeze(-2), prior_actions_BTN)
        return {
            "cmpo_entropy_BT": drawn_entropy(weights_BTN, log_prior_BTN),
            "cmpo_weights_BTN": weights_BTN,
            "cmpo_sampled_advantage_BTN": advantage_BTN,
            "cmpo_log_prior_BTN": log_prior_BTN,
        }

    def compute(  # type: ignore[override]
        self,
        *,
        logits_BTA: Tensor,
        prior_actions_BTN: Tensor,
        cmpo_weights_BTN: Tensor,
        cmpo_log_prior_BTN: Tensor,
        cmpo_entropy_BT: Tensor,
        mask_BT: Tensor,
    ) -> Terms:
        """The term `kl`, an estimate whose gradient is that of eq. 12, and the same two statistics.

        kl = 1/N sum_i w_i (log w_i + log prior(a_i) - log pi(a_i)).
        """
        rows_BTA = self.policies.normalise(logits_BTA)
        log_prob_BTN = self.policies.log_prob(rows_BTA.unsqueeze(-2), prior_actions_BTN)
        kl_BT = (cmpo_weights_BTN * (cmpo_weights_BTN.log() + cmpo_log_prior_BTN - log_prob_BTN)).mean(-1)
        return {
            "kl": Term(kl_BT, mask_BT, self.settings.kl_coef),
            "cross_entropy": Statistic.later(drawn_cross_entropy, (cmpo_weights_BTN, log_prob_BTN.detach()), mask_BT),
            "target_entropy": Statistic.later(itself, (cmpo_entropy_BT,), mask_BT),
        }


def drawn_entropy(weights_BTN: Tensor, log_prior_BTN: Tensor) -> Tensor:
    """An estimate of the CMPO policy's entropy from weighted samples of the prior, in nats."""
    return drawn_cross_entropy(weights_BTN, weights_BTN.log() + log_prior_BTN)


def drawn_cross_entropy(weights_BTN: Tensor, log_prob_BTN: Tensor) -> Tensor:
    """-sum_i w_i log p(a_i) / sum_i w_i, in nats."""
    return -(weights_BTN * log_prob_BTN).sum(-1) / weights_BTN.sum(-1)


def cross_entropy(target_BTA: Tensor, log_probs_BTA: Tensor) -> Tensor:
    """The cross-entropy of two policies over the last axis, in nats."""
    return -(target_BTA * log_probs_BTA).sum(-1)


def taken(values_BTA: Tensor, actions_BTN: Tensor) -> Tensor:
    """The values of the sampled actions, summed over their factors: `[B, T, N]`."""
    return values_BTA.gather(-1, actions_BTN.flatten(-2)).view(actions_BTN.shape).sum(-1)


def agreement(model_BT: Tensor, return_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Correlation between the model's and the return's advantages of the taken actions.

    It is computed over this rank's steps. Use fresh ones: the model was trained on the returns of replayed ones and
    remembers them. Returns are noisy, so even a perfect model may be near 0 (docs/concepts/losses.md). NaN if one of the
    two is constant.

    Args:
        model_BT: the model's advantages of the taken actions.
        return_BT: the returns' advantages of them.
        mask_BT: the valid steps of fresh trajectories.

    Returns:
        One number from -1 to 1, expanded to `[B, T]`.
    """
    pairs = torch.where(mask_BT, torch.stack([model_BT, return_BT]), 0.0).double()
    centred = torch.where(mask_BT, pairs - pairs.sum((1, 2), keepdim=True) / mask_BT.sum(), 0.0)
    lengths = centred.square().sum((1, 2)).sqrt()
    return (centred.prod(0).sum() / lengths.prod()).float().expand_as(mask_BT)
