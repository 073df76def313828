"""PPO's clipped surrogate loss and the entropy bonus."""

from __future__ import annotations

from functools import partial
from typing import TypedDict

import torch
from torch import Tensor

from learner.loss import Choice, Context, Loss, Question, Statistic, Term, Terms
from learner.losses.policy_kl import policy_kls
from learner.ranks.reduce import Reducer

STD_FLOOR = 1e-8


class PpoActorWrites(TypedDict):
    """Constants of the batch."""

    policy_advantage_BT: Tensor  # normalised over the steps of all ranks if `norm_adv` is set
    behaviour_log_prob_BT: Tensor  # the taken action under the policy that acted
    old_log_prob_BT: Tensor  # the taken action under the policy at the batch's start


def clipped_surrogate(ratio: Tensor, advantage: Tensor, clip_coef: float) -> Tensor:
    """max(-A r, -A clip(r, 1 - c, 1 + c)) per element.

    Source: Schulman et al. 2017, arXiv:1707.06347, eq. 7.
    """
    loss = -advantage
    return torch.maximum(loss * ratio, loss * ratio.clamp(1 - clip_coef, 1 + clip_coef))


def outside_clip(ratio: Tensor, *, clip_coef: float) -> Tensor:
    """Whether a ratio is outside of the clip range."""
    return (ratio - 1).abs() > clip_coef


def normalised(advantage_BT: Tensor, mask_BT: Tensor, reducer: Reducer) -> Tensor:
    """Normalise to mean 0 and standard deviation 1 over the valid steps of all ranks; 0 elsewhere."""
    kept_BT = torch.where(mask_BT, advantage_BT, 0.0).double()
    total, squares, count = reducer.sum(torch.stack([kept_BT.sum(), kept_BT.square().sum(), mask_BT.sum()]))
    mean = total / count
    std = (squares / count - mean**2).clamp(min=0).sqrt()
    return torch.where(mask_BT, (kept_BT - mean) / (std + STD_FLOOR), 0.0).float()


class PpoActor(Loss):
    """PPO's policy loss with the ratio to the behaviour policy, r = pi / pi_b."""

    name = "ppo_actor"

    def __init__(self, context: Context) -> None:
        self.settings = context.trainer.losses.ppo_actor
        self.policies = context.policies
        self.reducer = context.reducer

    def prepare(
        self,
        *,
        advantage_BT: Tensor,
        mask_BT: Tensor,
        behaviour_log_probs_BTA: Tensor,
        old_log_probs_BTA: Tensor,
        actions_BT: Tensor,
    ) -> PpoActorWrites:
        """Normalise advantages and look up the taken actions' log-probabilities, once per batch."""
        kept_BT = torch.where(mask_BT, advantage_BT, 0.0)
        advantage = normalised(advantage_BT, mask_BT, self.reducer) if self.settings.norm_adv else kept_BT
        return {
            "policy_advantage_BT": advantage,
            "behaviour_log_prob_BT": self.policies.log_prob(behaviour_log_probs_BTA, actions_BT),
            "old_log_prob_BT": self.policies.log_prob(old_log_probs_BTA, actions_BT),
        }

    def compute(
        self,
        *,
        logits_BTA: Tensor,
        actions_BT: Tensor,
        policy_advantage_BT: Tensor,
        behaviour_log_prob_BT: Tensor,
        old_log_prob_BT: Tensor,
        mask_BT: Tensor,
    ) -> Terms:
        """The terms `policy` and `entropy`, and the statistics `clip_ratio` and both KLs."""
        log_probs_BTA = self.policies.normalise(logits_BTA)
        log_prob_BT = self.policies.log_prob(log_probs_BTA, actions_BT)
        ratio_BT = self.policies.ratio(log_prob_BT - behaviour_log_prob_BT)
        terms = self.terms(log_probs_BTA, ratio_BT, policy_advantage_BT, mask_BT)
        return terms | policy_kls(log_prob_BT, old_log_prob_BT, behaviour_log_prob_BT, mask_BT)

    def terms(
        self, log_probs_BTA: Tensor, ratio_BT: Tensor, advantage_BT: Tensor, mask_BT: Tensor
    ) -> dict[str, Term | Statistic]:
        """The terms `policy` and `entropy` for a ratio to either anchor, and `clip_ratio`."""
        clip = self.settings.clip_coef
        return {
            "policy": Term(clipped_surrogate(ratio_BT, advantage_BT, clip), mask_BT, 1.0),
            "entropy": Term(self.policies.entropy(log_probs_BTA), mask_BT, -self.settings.ent_coef),
            "clip_ratio": Statistic.later(partial(outside_clip, clip_coef=clip), (ratio_BT.detach(),), mask_BT),
        }


class ProximalPpoActorWrites(PpoActorWrites):
    """The constants of `PpoActor` and the weight of each step."""

    anchor_weight_BT: Tensor  # min(rho_clip, pi_old / pi_b)


class ProximalPpoActor(PpoActor):
    """PPO's policy loss with the ratio to the policy at the batch's start, r = pi / pi_old.

    Each step is weighted by min(rho_clip, pi_old / pi_b). With older data the ratio to the behaviour
    policy is often outside of the clip range, which removes the step's gradient; this ratio is not
    (Hilton et al. 2021, arXiv:2110.00641).
    """

    anchors = ("anchor_weight_BT",)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.rho_clip = context.trainer.losses.ppo_critic.rho_clip

    def prepare(  # type: ignore[override]
        self,
        *,
        advantage_BT: Tensor,
        mask_BT: Tensor,
        behaviour_log_probs_BTA: Tensor,
        old_log_probs_BTA: Tensor,
        importance_ratio_BT: Tensor,
        actions_BT: Tensor,
    ) -> ProximalPpoActorWrites:
        """The same constants as `PpoActor`, and the weight."""
        written = super().prepare(
            advantage_BT=advantage_BT,
            mask_BT=mask_BT,
            behaviour_log_probs_BTA=behaviour_log_probs_BTA,
            old_log_probs_BTA=old_log_probs_BTA,
            actions_BT=actions_BT,
        )
        return {
            **written,
            "anchor_weight_BT": torch.where(mask_BT, importance_ratio_BT, 0.0).clamp(max=self.rho_clip),
        }

    def compute(  # type: ignore[override]
        self,
        *,
        logits_BTA: Tensor,
        actions_BT: Tensor,
        policy_advantage_BT: Tensor,
        anchor_weight_BT: Tensor,
        behaviour_log_prob_BT: Tensor,
        old_log_prob_BT: Tensor,
        mask_BT: Tensor,
    ) -> Terms:
        """The same terms as `PpoActor`; weights are positive, so they can multiply the advantages."""
        log_probs_BTA = self.policies.normalise(logits_BTA)
        log_prob_BT = self.policies.log_prob(log_probs_BTA, actions_BT)
        ratio_BT = self.policies.ratio(log_prob_BT - old_log_prob_BT)
        terms = self.terms(log_probs_BTA, ratio_BT, policy_advantage_BT * anchor_weight_BT, mask_BT)
        return terms | policy_kls(log_prob_BT, old_log_prob_BT, behaviour_log_prob_BT, mask_BT)


def choose(question: Question) -> Choice | None:
    """Choose the class by the anchor."""
    settings = question.trainer.losses.ppo_actor
    if not settings.enabled:
        return None
    return Choice(PpoActor if settings.anchor == "behaviour" else ProximalPpoActor)
