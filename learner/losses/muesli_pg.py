"""The policy gradient of the Muesli paper.

It weights every action by the q-value of the prior network's model, and corrects the taken action's
q-value by its return.

Source: Hessel et al. 2021, "Muesli", arXiv:2104.06159, eq. 10 and appendix A. The estimator is beta-LOO
of Gruslys et al. 2018, "The Reactor", arXiv:1704.04651, eq. 3, with a model instead of a q network.
"""

from __future__ import annotations

from typing import TypedDict

import torch
from torch import Tensor

from agent import distribution
from learner.loss import Choice, Context, Loss, Question, Statistic, Term, Terms, itself
from learner.losses.policy_kl import policy_kls
from oatmill.errors import SettingsError


class MuesliPgWrites(TypedDict):
    """Constants of the batch; advantages are in units of sigma."""

    pg_correction_BT: Tensor  # (G - q_prior(s, a_t)) / sigma: the return that the model did not predict
    pg_advantage_BTA: Tensor  # (q_prior(s, a) - v_prior(s)) / sigma of every action
    pg_behaviour_log_probs_BTF: Tensor  # each factor's taken choice under the behaviour policy
    pg_old_log_prob_BT: Tensor  # the taken action under the policy at the batch's start


class _PolicyGradient(Loss):
    """The parts of both estimators: clipped ratios, terms and statistics. The paper has no entropy bonus."""

    name = "muesli_pg"

    def __init__(self, context: Context) -> None:
        self.settings = context.trainer.losses.muesli_pg

    def terms(
        self, policy_BT: Tensor, correction_BT: Tensor, log_ratio_BT: Tensor, mask_BT: Tensor, entropy_BT: Tensor
    ) -> dict[str, Term | Statistic]:
        """The terms `policy` and `entropy`, and statistics: the policy's correction part and the clip ratio."""
        return {
            "policy": Term(policy_BT, mask_BT, self.settings.pg_coef),
            "entropy": Term(entropy_BT, mask_BT, -self.settings.ent_coef),
            "correction": Statistic.later(itself, (correction_BT.detach(),), mask_BT),
            "clip_ratio": Statistic.later(self.above_clip, (log_ratio_BT,), mask_BT),
        }

    def above_clip(self, log_ratio: Tensor) -> Tensor:
        """Whether a step's ratio is clipped."""
        return log_ratio.exp() > self.settings.ratio_clip

    def clipped(self, log_ratio: Tensor) -> Tensor:
        """min(c, pi / pi_b)."""
        return log_ratio.exp().clamp(max=self.settings.ratio_clip)


class MuesliPg(_PolicyGradient):
    """-min(c, pi / pi_b) (G - q(s, a_t)) / sigma log pi(a_t) - sum_a pi(a) (q(s, a) - v(s)) / sigma.

    No gradient flows through the ratio. If the ratio is not clipped, the expected gradient does not
    depend on q: a bad model increases the variance but adds no bias. With several factors, q is only
    known for actions that differ from the taken one in one factor. Each factor's sum is therefore
    weighted by the clipped ratio of the other factors.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.sizes = context.sizes
        self.factored = context.factored

    def prepare(
        self,
        *,
        prior_q_BTA: Tensor,
        prior_value_BT1: Tensor,
        action_return_BT: Tensor,
        sigma: Tensor,
        actions_BT: Tensor,
        behaviour_log_probs_BTA: Tensor,
        old_log_probs_BTA: Tensor,
        mask_BT: Tensor,
    ) -> MuesliPgWrites:
        """Compute the factors of the policy once per batch; 0 at masked steps."""
        q_taken_BT = self.taken(prior_q_BTA, actions_BT).mean(-1)
        advantage_BTA = (prior_q_BTA - prior_value_BT1[:, :-1].unsqueeze(-1)) / sigma
        return {
            "pg_correction_BT": torch.where(mask_BT, (action_return_BT - q_taken_BT) / sigma, 0.0),
            "pg_advantage_BTA": torch.where(mask_BT.unsqueeze(-1), advantage_BTA, 0.0),
            "pg_behaviour_log_probs_BTF": self.taken(behaviour_log_probs_BTA, actions_BT),
            "pg_old_log_prob_BT": self.taken(old_log_probs_BTA, actions_BT).sum(-1),
        }

    def compute(
        self,
        *,
        logits_BTA: Tensor,
        actions_BT: Tensor,
        pg_correction_BT: Tensor,
        pg_advantage_BTA: Tensor,
        pg_behaviour_log_probs_BTF: Tensor,
        pg_old_log_prob_BT: Tensor,
        mask_BT: Tensor,
    ) -> Terms:
        """The terms `policy` and `entropy`, and statistics: the policy's correction part, the clip ratio and both KLs."""
        log_probs_BTA = distribution.log_softmax(logits_BTA.float(), self.sizes)
        taken_BTF = self.taken(log_probs_BTA, actions_BT)
        log_prob_BT = taken_BTF.sum(-1)
        log_ratio_BTF = taken_BTF.detach() - pg_behaviour_log_probs_BTF
        log_ratio_BT = log_ratio_BTF.sum(-1)
        correction_BT = -self.clipped(log_ratio_BT) * pg_correction_BT * log_prob_BT
        others_BTF = self.clipped(log_ratio_BT.unsqueeze(-1) - log_ratio_BTF)
        expected_BTF = distribution.factor_sums(log_probs_BTA.exp() * pg_advantage_BTA, self.sizes)
        policy_BT = correction_BT - (others_BTF * expected_BTF).sum(-1)
        terms = self.terms(policy_BT, correction_BT, log_ratio_BT, mask_BT, distribution.entropy(log_probs_BTA))
        return terms | policy_kls(log_prob_BT, pg_old_log_prob_BT, pg_behaviour_log_probs_BTF.sum(-1), mask_BT)

    def taken(self, values_BTA: Tensor, actions_BT: Tensor) -> Tensor:
        """The values of the taken choices, `[B, T, factors]`."""
        return values_BTA.gather(-1, distribution.action_columns(actions_BT, self.sizes, factored=self.factored))


class DrawnMuesliPgWrites(TypedDict):
    """Constant during the batch's updates; in units of return divided by its standard deviation."""

    pg_correction_BT: Tensor  # (G - q_prior(s, a_t)) / sigma
    pg_advantage_BTN: Tensor  # (q_prior(s, a_i) - v_prior(s)) / sigma of each sampled action
    pg_log_prior_BTN: Tensor  # the prior's log-probability of each of these
    pg_behaviour_log_prob_BT: Tensor
    pg_old_log_prob_BT: Tensor


class DrawnMuesliPg(_PolicyGradient):
    """The same for actions with numbers: the sum over all actions becomes a mean over N samples of the prior.

    Each sample is weighted by min(c, pi / pi_prior): the second part is
    -1/N sum_i min(c, pi / pi_prior) (q(s, a_i) - v(s)) / sigma log pi(a_i). Where no ratio is clipped, its expected gradient
    is that of the sum. Ratios are weights without gradient.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.policies = context.policies

    def prepare(
        self,
        *,
        prior_log_probs_BTA: Tensor,
        prior_actions_BTN: Tensor,
        prior_sampled_q_BTN: Tensor,
        prior_taken_q_BT: Tensor,
        prior_value_BT1: Tensor,
        action_return_BT: Tensor,
        sigma: Tensor,
        actions_BT: Tensor,
        behaviour_log_probs_BTA: Tensor,
        old_log_probs_BTA: Tensor,
        mask_BT: Tensor,
    ) -> DrawnMuesliPgWrites:
        """Compute the constants of the batch; 0 at steps that are masked."""
        log_prob = self.policies.log_prob
        correction_BT = (action_return_BT - prior_taken_q_BT) / sigma
        advantage_BTN = (prior_sampled_q_BTN - prior_value_BT1[:, :-1].unsqueeze(-1)) / sigma
        return {
            "pg_correction_BT": torch.where(mask_BT, correction_BT, 0.0),
            "pg_advantage_BTN": torch.where(mask_BT.unsqueeze(-1), advantage_BTN, 0.0),
            "pg_log_prior_BTN": log_prob(prior_log_probs_BTA.unsqueeze(-2), prior_actions_BTN),
            "pg_behaviour_log_prob_BT": log_prob(behaviour_log_probs_BTA, actions_BT),
            "pg_old_log_prob_BT": log_prob(old_log_probs_BTA, actions_BT),
        }

    def compute(
        self,
        *,
        logits_BTA: Tensor,
        actions_BT: Tensor,
        prior_actions_BTN: Tensor,
        pg_correction_BT: Tensor,
        pg_advantage_BTN: Tensor,
        pg_log_prior_BTN: Tensor,
        pg_behaviour_log_prob_BT: Tensor,
        pg_old_log_prob_BT: Tensor,
        mask_BT: Tensor,
    ) -> Terms:
        """The terms and statistics of `MuesliPg`."""
        rows_BTA = self.policies.normalise(logits_BTA)
        log_prob_BT = self.policies.log_prob(rows_BTA, actions_BT)
        log_prob_BTN = self.policies.log_prob(rows_BTA.unsqueeze(-2), prior_actions_BTN)
        log_ratio_BT = log_prob_BT.detach() - pg_behaviour_log_prob_BT
        correction_BT = -self.clipped(log_ratio_BT) * pg_correction_BT * log_prob_BT
        weights_BTN = self.clipped(log_prob_BTN.detach() - pg_log_prior_BTN) * pg_advantage_BTN
        policy_BT = correction_BT - (weights_BTN * log_prob_BTN).mean(-1)
        terms = self.terms(policy_BT, correction_BT, log_ratio_BT, mask_BT, self.policies.entropy(rows_BTA))
        return terms | policy_kls(log_prob_BT, pg_old_log_prob_BT, pg_behaviour_log_prob_BT, mask_BT)


def choose(question: Question) -> Choice | None:
    """Choose the loss; it excludes `ppo_actor` and needs a dynamics model."""
    losses = question.trainer.losses
    if not losses.muesli_pg.enabled:
        return None
    if losses.ppo_actor.enabled:
        raise SettingsError(
            "trainer.losses.ppo_actor and trainer.losses.muesli_pg are both enabled, but each is a complete policy loss; "
            "disable one of them"
        )
    if not losses.dynamics.predicts_q:
        raise SettingsError(
            "trainer.losses.muesli_pg needs the dynamics model: trainer.losses.dynamics.enabled=true with both of its "
            "coefficients above 0; enable it or use ppo_actor"
        )
    if question.action.dimensions:
        return Choice(
            DrawnMuesliPg, notes=(f"muesli_pg evaluates the prior's model for {losses.prior_samples} sampled actions",)
        )
    return Choice(MuesliPg, notes=(f"muesli_pg evaluates the prior's model for all {question.action.num_logits} actions",))
