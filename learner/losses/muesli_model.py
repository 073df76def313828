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
    """The term `cross_entropy`, and the statistics `target_entropy` and `kl`, in nats.

    Training can reduce the KL only, not the target's entropy.

    Args:
        model_logits_BTKA: the model's policies.
        target_BTKA: the target policies.
        entropy_BTK: the entropy of the full target policies. A target from a few sampled actions has a
            lower entropy of its own, so it cannot be computed from `target_BTKA`.
        mask_BTK: which targets exist.
        sizes: the number of choices of each factor.
        coef: the term's coefficient.
    """
    log_probs_BTKA = distribution.log_softmax(model_logits_BTKA.float(), sizes)
    cross_entropy_BTK = -(target_BTKA * log_probs_BTKA).sum(-1)
    both = (cross_entropy_BTK.detach(), entropy_BTK)
    terms: dict[str, Term | Statistic] = {
        "cross_entropy": Term(cross_entropy_BTK, mask_BTK, coef),
        "target_entropy": Statistic.later(itself, (entropy_BTK,), mask_BTK),
        "kl": Statistic.later(torch.sub, both, mask_BTK),
    }
    for k in range(mask_BTK.shape[-1]):
        terms[f"kl_{k + 1}"] = Statistic.later(torch.sub, both, mask_BTK, last=k)
    return terms


class MuesliModel(Loss):
    """Cross-entropy from CMPO's policy at t + k to the model's policy after k steps."""

    name = "muesli_model"

    def __init__(self, context: Context) -> None:
        self.settings = context.trainer.losses.muesli_model
        self.sizes = context.sizes

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

    def compute(
        self, *, model_logits_BTKA: Tensor, muesli_target_BTKA: Tensor, muesli_entropy_BTK: Tensor, muesli_mask_BTK: Tensor
    ) -> Terms:
        """The term `cross_entropy`, in nats."""
        coef = self.settings.policy_pred_coef
        return policy_terms(
            model_logits_BTKA, muesli_target_BTKA, muesli_entropy_BTK, muesli_mask_BTK, sizes=self.sizes, coef=coef
        )


class PriorMuesliModel(Loss):
    """Cross-entropy from the prior policy at t + k to the model's policy after k steps."""

    name = "muesli_model"

    def __init__(self, context: Context) -> None:
        self.settings = context.trainer.losses.muesli_model
        self.sizes = context.sizes

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

    def compute(
        self, *, model_logits_BTKA: Tensor, muesli_target_BTKA: Tensor, muesli_entropy_BTK: Tensor, muesli_mask_BTK: Tensor
    ) -> Terms:
        """The term `cross_entropy`, in nats."""
        coef = self.settings.policy_pred_coef
        return policy_terms(
            model_logits_BTKA, muesli_target_BTKA, muesli_entropy_BTK, muesli_mask_BTK, sizes=self.sizes, coef=coef
        )


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
    return Choice(MuesliModel if target == "cmpo" else PriorMuesliModel, auto, notes)
