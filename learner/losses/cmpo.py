"""Clipped maximum a posteriori policy optimisation (CMPO).

The loss is the KL divergence from the CMPO policy to the trained policy. The CMPO policy is the prior
policy, reweighted by exponentials of clipped advantages.

Source: Hessel et al. 2021, "Muesli", arXiv:2104.06159, eq. 7, 9, 11 and 12.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor

from agent import distribution
from learner.loss import Choice, Context, Loss, Question, Statistic, Term, Terms, itself
from learner.losses.cmpo_sampled import DrawnCmpo, SampledCmpo, agreement
from learner.losses.policy_improvement import clipped_mpo_policy, entropy, kl_divergence
from learner.settings import CmpoSettings
from oatmill.errors import SettingsError

EXACT_UP_TO = 32
"""`estimator=auto` evaluates the model for every action if there are at most this many."""


class CmpoWrites(TypedDict):
    """The target policy; constant during the batch's updates."""

    cmpo_policy_BTA: Tensor
    cmpo_entropy_BT: Tensor  # the entropy of the CMPO policy, in nats
    cmpo_advantage_BTA: Tensor  # divided by sigma and the temperature, before clipping


class _Cmpo(Loss):
    """KL(pi_cmpo || pi), with an advantage of every action."""

    name = "cmpo"

    def __init__(self, context: Context) -> None:
        self.settings = context.trainer.losses.cmpo
        self.sizes = context.sizes
        self.factored = context.factored

    def target(self, prior_log_probs_BTA: Tensor, advantage_BTA: Tensor) -> CmpoWrites:
        """The prior policy, reweighted by clipped advantages."""
        policy = clipped_mpo_policy(prior_log_probs_BTA, advantage_BTA, self.sizes, clip=self.settings.advantage_clip)
        return {"cmpo_policy_BTA": policy, "cmpo_entropy_BT": entropy(policy), "cmpo_advantage_BTA": advantage_BTA}

    def compute(self, *, logits_BTA: Tensor, cmpo_policy_BTA: Tensor, cmpo_entropy_BT: Tensor, mask_BT: Tensor) -> Terms:
        """The term `kl` and the statistics `cross_entropy` and `target_entropy`, in nats."""
        log_probs_BTA = distribution.log_softmax(logits_BTA.float(), self.sizes)
        kl_BT = kl_divergence(cmpo_policy_BTA, log_probs_BTA, cmpo_entropy_BT)
        return {
            "kl": Term(kl_BT, mask_BT, self.settings.kl_coef),
            "cross_entropy": Statistic.later(torch.add, (kl_BT.detach(), cmpo_entropy_BT), mask_BT),
            "target_entropy": Statistic.later(itself, (cmpo_entropy_BT,), mask_BT),
        }


class ExactCmpo(_Cmpo):
    """KL(pi_cmpo || pi), with the advantage of every action from the prior network's one-step model."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.expected_baseline = context.factored or self.settings.baseline == "prior_expected_q"

    def prepare(
        self,
        *,
        prior_log_probs_BTA: Tensor,
        prior_q_BTA: Tensor,
        prior_value_BT1: Tensor,
        sigma: Tensor,
    ) -> CmpoWrites:
        """Compute the target policy once per batch.

        The baseline is the prior network's value or its expected q. With several factors it is the
        expected q of each factor.
        """
        if self.expected_baseline:
            expected = distribution.factor_sums(prior_log_probs_BTA.exp() * prior_q_BTA, self.sizes)
            baseline_BTA = distribution.spread(expected, self.sizes)
        else:
            baseline_BTA = prior_value_BT1[:, :-1].unsqueeze(-1)
        advantage_BTA = (prior_q_BTA - baseline_BTA) / (sigma * self.settings.temperature)
        return self.target(prior_log_probs_BTA, advantage_BTA)

    def measure(
        self,
        *,
        prior_log_probs_BTA: Tensor,
        prior_q_BTA: Tensor,
        prior_value_BT1: Tensor,
        cmpo_policy_BTA: Tensor,
        cmpo_advantage_BTA: Tensor,
        sigma: Tensor,
        advantage_BT: Tensor,
        actions_BT: Tensor,
        mask_BT: Tensor,
        fresh_B: Tensor,
    ) -> dict[str, Statistic]:
        """Statistics of the target policy and of the advantages behind it."""
        expected_BTF = distribution.factor_sums(prior_log_probs_BTA.exp() * prior_q_BTA, self.sizes)
        offset_BT = (expected_BTF.mean(-1) - prior_value_BT1[:, :-1]).abs() / sigma
        q_taken_BT = distribution.log_prob(prior_q_BTA, actions_BT, self.sizes, factored=self.factored)
        of_taken_BT = q_taken_BT - expected_BTF.sum(-1)
        fresh_BT = mask_BT & fresh_B[:, None]
        return target_statistics(
            prior_log_probs_BTA, cmpo_policy_BTA, cmpo_advantage_BTA, mask_BT, self.sizes, clip=self.settings.advantage_clip
        ) | {
            "baseline_offset": Statistic(offset_BT, mask_BT),
            "sigma": Statistic(sigma.expand_as(mask_BT), mask_BT),
            "advantage_agreement": Statistic(agreement(of_taken_BT, advantage_BT, fresh_BT), fresh_BT),
        }


class ReturnCmpo(_Cmpo):
    """KL(pi_cmpo || pi) without a dynamics model, from the return's advantage of the taken action.

    All other actions have an advantage of 0. This is a heuristic of oatmill and not part of the paper;
    the plan has a note about it.
    """

    def prepare(self, *, prior_log_probs_BTA: Tensor, advantage_BT: Tensor, actions_BT: Tensor, sigma: Tensor) -> CmpoWrites:
        """Compute the target policy once per batch."""
        taken_BTA = distribution.one_hot(actions_BT, self.sizes, factored=self.factored)
        advantage_BTA = taken_BTA * (advantage_BT / (sigma * self.settings.temperature)).unsqueeze(-1)
        return self.target(prior_log_probs_BTA, advantage_BTA)

    def measure(
        self,
        *,
        prior_log_probs_BTA: Tensor,
        cmpo_policy_BTA: Tensor,
        cmpo_advantage_BTA: Tensor,
        sigma: Tensor,
        mask_BT: Tensor,
    ) -> dict[str, Statistic]:
        """Statistics of the target policy and of the advantages behind it."""
        return target_statistics(
            prior_log_probs_BTA, cmpo_policy_BTA, cmpo_advantage_BTA, mask_BT, self.sizes, clip=self.settings.advantage_clip
        ) | {"sigma": Statistic(sigma.expand_as(mask_BT), mask_BT)}


def target_statistics(
    prior_log_probs_BTA: Tensor,
    policy_BTA: Tensor,
    advantage_BTA: Tensor,
    mask_BT: Tensor,
    sizes: Sequence[int],
    *,
    clip: float,
) -> dict[str, Statistic]:
    """Statistics of the advantages, and the total variation distance from the prior to the target.

    `adv_mean` and `adv_std` are taken over the actions of a state, weighted by the prior policy.
    Differences between states do not change the target. `advantage_clipped` is the clipped fraction.
    """
    prior_BTA = prior_log_probs_BTA.exp()
    mean_BTF = distribution.factor_sums(prior_BTA * advantage_BTA, sizes)
    centred_BTA = advantage_BTA - distribution.spread(mean_BTF, sizes)
    variance_BTF = distribution.factor_sums(prior_BTA * centred_BTA**2, sizes)
    variation_BTF = 0.5 * distribution.factor_sums((policy_BTA - prior_BTA).abs(), sizes)
    values = {
        "adv_mean": mean_BTF.mean(-1),
        "adv_std": variance_BTF.sqrt().mean(-1),
        "advantage_clipped": (advantage_BTA.abs() > clip).float().mean(-1),
        "total_variation": variation_BTF.amax(-1),
    }
    return {name: Statistic(value, mask_BT) for name, value in values.items()}


def choose(question: Question) -> Choice | None:
    """Choose the source of advantages, then the estimator."""
    settings = question.trainer.losses.cmpo
    if not settings.enabled:
        return None
    auto: dict[str, str] = {}
    advantage = settings.advantage
    if advantage == "auto":
        advantage = "model" if question.trainer.losses.dynamics.predicts_q else "sampled"
        auto["trainer.losses.cmpo.advantage"] = advantage
    if question.action.dimensions:
        return choose_with_numbers(question, advantage, auto)
    if advantage == "sampled":
        note = "cmpo.advantage=sampled uses the return of the taken action only; a heuristic of oatmill, not of the paper"
        return Choice(ReturnCmpo, auto, (note,))
    if not question.trainer.losses.dynamics.predicts_q:
        raise SettingsError(
            "trainer.losses.cmpo.advantage=model needs trainer.losses.dynamics.enabled=true with both of its "
            "coefficients above 0; enable it or set advantage to sampled or auto"
        )
    estimator = settings.estimator
    if estimator == "auto":
        estimator = "exact" if question.action.num_logits <= EXACT_UP_TO else "sampled"
        auto["trainer.losses.cmpo.estimator"] = estimator
    if estimator == "sampled":
        return Choice(SampledCmpo, auto, (sampled_note(settings),))
    several = question.action.factored and settings.baseline == "prior_value"
    note = "cmpo.baseline=prior_value is ignored: with several factors the baseline is the expected q of each factor"
    return Choice(ExactCmpo, auto, (note,) if several else ())


def choose_with_numbers(question: Question, advantage: str, auto: dict[str, str]) -> Choice:
    """Choose for actions with numbers. Only the sampled estimator with the model's advantages works for them.

    Raises:
        SettingsError: if the settings require another estimator or other advantages.
    """
    settings = question.trainer.losses.cmpo
    if advantage == "sampled" or not question.trainer.losses.dynamics.predicts_q:
        raise SettingsError(
            "trainer.losses.cmpo with a Box action needs the model's q of sampled actions: "
            "trainer.losses.dynamics.enabled=true with both of its coefficients above 0, and cmpo.advantage=model or auto; "
            "enable it or disable cmpo"
        )
    if settings.estimator == "exact":
        raise SettingsError(
            "trainer.losses.cmpo.estimator=exact evaluates every action, and a Box has too many; set estimator to sampled or "
            "auto"
        )
    if settings.estimator == "auto":
        auto["trainer.losses.cmpo.estimator"] = "sampled"
    return Choice(DrawnCmpo, auto, (sampled_note(settings),))


def sampled_note(settings: CmpoSettings) -> str:
    """The note about the sampled estimator for the user."""
    note = f"cmpo.estimator=sampled: the KL is estimated from {settings.num_samples} actions sampled from the prior"
    if settings.baseline == "prior_expected_q":
        note += "; their mean q is the baseline, which adds a small bias to the gradient"
    return note
