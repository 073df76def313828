"""The clipped surrogate and the entropy bonus."""

from __future__ import annotations

from functools import partial
from typing import TypedDict

import torch
from torch import Tensor

from learner.distributed import Reducer
from learner.loss import Choice, Context, Loss, Question, Statistic, Term, Terms
from learner.losses.policy_kl import policy_kls

STD_FLOOR = 1e-8


class PpoActorWrites(TypedDict):
    """Frozen for the batch."""

    policy_advantage_BT: Tensor  # what the surrogate multiplies; normalised over all ranks' steps if asked for
    behaviour_log_prob_BT: Tensor  # of the taken action under the policy that took it
    old_log_prob_BT: Tensor  # of the taken action under the policy at the batch's start


def clipped_surrogate(ratio: Tensor, advantage: Tensor, clip_coef: float) -> Tensor:
    """max(-A r, -A clip(r, 1 - c, 1 + c)), unreduced.

    Source: Schulman et al. 2017, arXiv:1707.06347, eq. 7.
    """
    loss = -advantage
    return torch.maximum(loss * ratio, loss * ratio.clamp(1 - clip_coef, 1 + clip_coef))


def outside_clip(ratio: Tensor, *, clip_coef: float) -> Tensor:
    """Whether a ratio lies outside the clip."""
    return (ratio - 1).abs() > clip_coef


def normalised(advantage_BT: Tensor, mask_BT: Tensor, reducer: Reducer) -> Tensor:
    """Zero mean and unit standard deviation over the valid steps of all ranks; 0 elsewhere."""
    kept_BT = torch.where(mask_BT, advantage_BT, 0.0).double()
    total, squares, count = reducer.sum(torch.stack([kept_BT.sum(), kept_BT.square().sum(), mask_BT.sum()]))
    mean = total / count
    std = (squares / count - mean**2).clamp(min=0).sqrt()
    return torch.where(mask_BT, (kept_BT - mean) / (std + STD_FLOOR), 0.0).float()


class PpoActor(Loss):
    """PPO's policy loss against the behaviour policy: r = pi / pi_b."""

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
        """Normalise advantages and take the taken actions' log-probabilities, once for the batch."""
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
        """The terms `policy` and `entropy`; statistics of how far the policy has moved."""
        log_probs_BTA = self.policies.normalise(logits_BTA)
        log_prob_BT = self.policies.log_prob(log_probs_BTA, actions_BT)
        ratio_BT = self.policies.ratio(log_prob_BT - behaviour_log_prob_BT)
        terms = self.terms(log_probs_BTA, ratio_BT, policy_advantage_BT, mask_BT)
        return terms | policy_kls(log_prob_BT, old_log_prob_BT, behaviour_log_prob_BT, mask_BT)

    def terms(
        self, log_probs_BTA: Tensor, ratio_BT: Tensor, advantage_BT: Tensor, mask_BT: Tensor
    ) -> dict[str, Term | Statistic]:
        """The two terms for a ratio to whichever anchor, and how often it lies outside the clip."""
        clip = self.settings.clip_coef
        return {
            "policy": Term(clipped_surrogate(ratio_BT, advantage_BT, clip), mask_BT, 1.0),
            "entropy": Term(self.policies.entropy(log_probs_BTA), mask_BT, -self.settings.ent_coef),
            "clip_ratio": Statistic.later(partial(outside_clip, clip_coef=clip), (ratio_BT.detach(),), mask_BT),
        }


class ProximalPpoActorWrites(PpoActorWrites):
    """What the proximal anchor has beside."""

    anchor_weight_BT: Tensor  # min(rho_clip, pi_old / pi_b)


class ProximalPpoActor(Loss):
    """PPO's policy loss against the policy at the batch's start, r = pi / pi_old, weighed by min(rho_clip, pi_old / pi_b).

    Data may then be old without the clip cutting off what older data has to say (Hilton et al. 2021, arXiv:2110.00641).
    """

    name = "ppo_actor"

    def __init__(self, context: Context) -> None:
        self.inner = PpoActor(context)
        self.rho_clip = context.trainer.losses.ppo_critic.rho_clip

    def prepare(
        self,
        *,
        advantage_BT: Tensor,
        mask_BT: Tensor,
        behaviour_log_probs_BTA: Tensor,
        old_log_probs_BTA: Tensor,
        importance_ratio_BT: Tensor,
        actions_BT: Tensor,
    ) -> ProximalPpoActorWrites:
        """As `PpoActor`, with the old policy as the anchor."""
        written = self.inner.prepare(
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

    def compute(
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
        """As `PpoActor`; the weight times the advantage is the advantage of a surrogate with a weight above 0."""
        log_probs_BTA = self.inner.policies.normalise(logits_BTA)
        log_prob_BT = self.inner.policies.log_prob(log_probs_BTA, actions_BT)
        ratio_BT = self.inner.policies.ratio(log_prob_BT - old_log_prob_BT)
        terms = self.inner.terms(log_probs_BTA, ratio_BT, policy_advantage_BT * anchor_weight_BT, mask_BT)
        return terms | policy_kls(log_prob_BT, old_log_prob_BT, behaviour_log_prob_BT, mask_BT)


def choose(question: Question) -> Choice | None:
    """One class for each anchor."""
    settings = question.trainer.losses.ppo_actor
    if not settings.enabled:
        return None
    return Choice(PpoActor if settings.anchor == "behaviour" else ProximalPpoActor)
