"""Train the dynamics model's policies towards the improved policies of the states that were reached.

Source: Hessel et al. 2021, "Muesli", arXiv:2104.06159, eq. 13.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor

from agent import distribution
from learner.loss import Choice, Context, Loss, Question, Statistic, Term, Terms, itself
from learner.nodes.masks import ahead, unroll_masks
from oatmill.errors import SettingsError


class MuesliModelWrites(TypedDict):
    """Targets for every step t and model step k; constant during the batch's updates."""

    muesli_target_BTKA: Tensor  # the improved policy at t + k
    muesli_entropy_BTK: Tensor  # that policy's entropy, in nats
    muesli_mask_BTK: Tensor


def policy_targets(
    policy_BTA: Tensor, entropy_BT: Tensor, *, terminated_BT: Tensor, truncated_BT: Tensor, mask_BT: Tensor, horizon: int
) -> MuesliModelWrites:
    """The policy and its entropy at t + k for k = 1..horizon; 0 if t + k is not in the same episode."""
    mask_BTK = unroll_masks(terminated_BT, truncated_BT, mask_BT, horizon).policy
    target_BTKA = torch.where(mask_BTK.unsqueeze(-1), ahead(policy_BTA, horizon, first=1), 0.0)
    entropy_BTK = torch.where(mask_BTK, ahead(entropy_BT, horizon, first=1), 0.0)
    return {"muesli_target_BTKA": target_BTKA, "muesli_entropy_BTK": entropy_BTK, "muesli_mask_BTK": mask_BTK}


def policy_terms(
    model_logits_BTKA: Tensor,
    target_BTKA: Tensor,
    entropy_BTK: Tensor,
    mask_BTK: Tensor,
    *,
    sizes: Sequence[int],
    coef: float,
) -> Terms:
    """The terms of `cross_entropy_terms` for targets that are probabilities of every action."""
    log_probs_BTKA = distribution.log_softmax(model_logits_BTKA.float(), sizes)
    return cross_entropy_terms(-(target_BTKA * log_probs_BTKA).sum(-1), entropy_BTK, mask_BTK, coef)


def cross_entropy_terms(cross_entropy_BTK: Tensor, entropy_BTK: Tensor, mask_BTK: Tensor, coef: float) -> Terms:
    """The term `cross_entropy`, and the statistics `target_entropy` and `kl`, in nats.

    Training can reduce the KL only, not the target's entropy.

    Args:
        cross_entropy_BTK: the cross-entropy from the target to the model's policy.
        entropy_BTK: the entropy of the full target policies. A target from a few sampled actions has a
            lower entropy of its own, so it cannot be computed from these actions.
        mask_BTK: which targets exist.
        coef: the term's coefficient.
    """
    both = (cross_entropy_BTK.detach(), entropy_BTK)
    terms: dict[str, Term | Statistic] = {
        "cross_entropy": Term(cross_entropy_BTK, mask_BTK, coef),
        "target_entropy": Statistic.later(itself, (entropy_BTK,), mask_BTK),
        "kl": Statistic.later(torch.sub, both, mask_BTK),
    }
    for k in range(mask_BTK.shape[-1]):
        terms[f"kl_{k + 1}"] = Statistic.later(torch.sub, both, mask_BTK, last=k)
    return terms


class _PolicyPrediction(Loss):
    """Cross-entropy from target policies at t + k to the model's policies after k steps."""

    name = "muesli_model"

    def __init__(self, context: Context) -> None:
        self.settings = context.trainer.losses.muesli_model
        self.policies = context.policies

    def compute(
        self, *, model_logits_BTKA: Tensor, muesli_target_BTKA: Tensor, muesli_entropy_BTK: Tensor, muesli_mask_BTK: Tensor
    ) -> Terms:
        """The term `cross_entropy`, in nats."""
        coef = self.settings.policy_pred_coef
        return policy_terms(
            model_logits_BTKA, muesli_target_BTKA, muesli_entropy_BTK, muesli_mask_BTK, sizes=self.policies.sizes, coef=coef
        )


class MuesliModel(_PolicyPrediction):
    """Cross-entropy from CMPO's policy at t + k to the model's policy after k steps."""

    def prepare(
        self,
        *,
        cmpo_policy_BTA: Tensor,
        cmpo_entropy_BT: Tensor,
        terminated_BT: Tensor,
        truncated_BT: Tensor,
        mask_BT: Tensor,
    ) -> MuesliModelWrites:
        """Shift CMPO's policies along the trajectory."""
        return policy_targets(
            cmpo_policy_BTA,
            cmpo_entropy_BT,
            terminated_BT=terminated_BT,
            truncated_BT=truncated_BT,
            mask_BT=mask_BT,
            horizon=self.settings.policy_horizon,
        )


class PriorMuesliModel(_PolicyPrediction):
    """Cross-entropy from the prior policy at t + k to the model's policy after k steps."""

    def prepare(
        self, *, prior_log_probs_BTA: Tensor, terminated_BT: Tensor, truncated_BT: Tensor, mask_BT: Tensor
    ) -> MuesliModelWrites:
        """Shift the prior's policies along the trajectory."""
        return policy_targets(
            prior_log_probs_BTA.exp(),
            distribution.entropy(prior_log_probs_BTA),
            terminated_BT=terminated_BT,
            truncated_BT=truncated_BT,
            mask_BT=mask_BT,
            horizon=self.settings.policy_horizon,
        )


class DrawnMuesliModelWrites(TypedDict):
    """Targets of every step t and model step k; constant during the batch's updates."""

    muesli_actions_BTKN: Tensor  # sampled from the prior at t + k, [B, T, K, N, width]
    muesli_weights_BTKN: Tensor  # CMPO's weight of each, normalised to sum to one
    muesli_entropy_BTK: Tensor
    muesli_mask_BTK: Tensor


class DrawnMuesliModel(_PolicyPrediction):
    """The cross-entropy for actions with numbers: the weighted log-likelihood of the prior's sampled actions at t + k."""

    def prepare(
        self,
        *,
        prior_actions_BTN: Tensor,
        cmpo_weights_BTN: Tensor,
        cmpo_entropy_BT: Tensor,
        terminated_BT: Tensor,
        truncated_BT: Tensor,
        mask_BT: Tensor,
    ) -> DrawnMuesliModelWrites:
        """Shift CMPO's sampled actions and their weights along the trajectory."""
        targets = policy_targets(
            cmpo_weights_BTN / cmpo_weights_BTN.sum(-1, keepdim=True),
            cmpo_entropy_BT,
            terminated_BT=terminated_BT,
            truncated_BT=truncated_BT,
            mask_BT=mask_BT,
            horizon=self.settings.policy_horizon,
        )
        mask_BTK = targets["muesli_mask_BTK"]
        actions_BTKN = ahead(prior_actions_BTN, self.settings.policy_horizon, first=1)
        return {
            "muesli_actions_BTKN": torch.where(mask_BTK[..., None, None], actions_BTKN, 0.0),
            "muesli_weights_BTKN": targets["muesli_target_BTKA"],
            "muesli_entropy_BTK": targets["muesli_entropy_BTK"],
            "muesli_mask_BTK": mask_BTK,
        }

    def compute(  # type: ignore[override]
        self,
        *,
        model_logits_BTKA: Tensor,
        muesli_actions_BTKN: Tensor,
        muesli_weights_BTKN: Tensor,
        muesli_entropy_BTK: Tensor,
        muesli_mask_BTK: Tensor,
    ) -> Terms:
        """The term `cross_entropy`, in nats."""
        rows_BTKA = self.policies.normalise(model_logits_BTKA)
        log_prob_BTKN = self.policies.log_prob(rows_BTKA.unsqueeze(-2), muesli_actions_BTKN)
        cross_entropy_BTK = -(muesli_weights_BTKN * log_prob_BTKN).sum(-1)
        return cross_entropy_terms(cross_entropy_BTK, muesli_entropy_BTK, muesli_mask_BTK, self.settings.policy_pred_coef)


class GaussianMuesliModel(_PolicyPrediction):
    """The cross-entropy to the prior's policy at t + k for actions with numbers, in closed form; used without CMPO."""

    def prepare(
        self, *, prior_log_probs_BTA: Tensor, terminated_BT: Tensor, truncated_BT: Tensor, mask_BT: Tensor
    ) -> MuesliModelWrites:
        """Shift the prior's policies along the trajectory, as rows of log-probabilities, means and log stds."""
        return policy_targets(
            prior_log_probs_BTA,
            self.policies.drawn_entropy(prior_log_probs_BTA),
            terminated_BT=terminated_BT,
            truncated_BT=truncated_BT,
            mask_BT=mask_BT,
            horizon=self.settings.policy_horizon,
        )

    def compute(
        self, *, model_logits_BTKA: Tensor, muesli_target_BTKA: Tensor, muesli_entropy_BTK: Tensor, muesli_mask_BTK: Tensor
    ) -> Terms:
        """The term `cross_entropy`, in nats: the KL and the target's entropy."""
        kl_BTK = self.policies.kl(muesli_target_BTKA, self.policies.normalise(model_logits_BTKA))
        cross_entropy_BTK = kl_BTK + muesli_entropy_BTK
        return cross_entropy_terms(cross_entropy_BTK, muesli_entropy_BTK, muesli_mask_BTK, self.settings.policy_pred_coef)


def choose(question: Question) -> Choice | None:
    """Choose the target: CMPO's policy if CMPO is enabled, otherwise the prior policy."""
    losses = question.trainer.losses
    settings = losses.muesli_model
    if not settings.enabled:
        return None
    if losses.dynamics.enabled and settings.policy_horizon > losses.dynamics.unroll_steps:
        raise SettingsError(
            f"trainer.losses.muesli_model.policy_horizon must be at most trainer.losses.dynamics.unroll_steps="
            f"{losses.dynamics.unroll_steps}, got {settings.policy_horizon}; raise unroll_steps or lower the horizon"
        )
    target, auto = settings.policy_target, {}
    if target == "auto":
        target = "cmpo" if losses.cmpo.enabled else "prior"
        auto["trainer.losses.muesli_model.policy_target"] = target
    if target == "cmpo" and not losses.cmpo.enabled:
        raise SettingsError(
            "trainer.losses.muesli_model.policy_target=cmpo needs trainer.losses.cmpo.enabled=true; enable it or set "
            "policy_target to prior or auto"
        )
    notes = () if losses.dynamics.enabled else ("muesli_model without dynamics: the model learns policies only",)
    if question.action.dimensions:
        return Choice(DrawnMuesliModel if target == "cmpo" else GaussianMuesliModel, auto, notes)
    return Choice(MuesliModel if target == "cmpo" else PriorMuesliModel, auto, notes)
