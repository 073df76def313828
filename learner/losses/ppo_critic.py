"""Train the value head on the value targets."""

from __future__ import annotations

from typing import TypedDict

import torch
from torch import Tensor

from learner.loss import Choice, Context, Loss, Question, Term, Terms


class PpoCriticWrites(TypedDict):
    """The targets; constant during the batch's updates."""

    critic_target_BT: Tensor  # 0 at masked steps, where the value target may be NaN


def critic_target(value_target_BT: Tensor, mask_BT: Tensor) -> PpoCriticWrites:
    """The value targets, with 0 at masked steps."""
    return {"critic_target_BT": torch.where(mask_BT, value_target_BT, 0.0)}


class PpoCritic(Loss):
    """1/2 (V - R)^2, or the cross-entropy to the two-hot target with a categorical head.

    Source: Schulman et al. 2017, arXiv:1707.06347, eq. 9.
    """

    name = "ppo_critic"

    def __init__(self, context: Context) -> None:
        self.vf_coef = context.trainer.losses.ppo_critic.vf_coef
        self.codec = context.codec

    def prepare(self, *, value_target_BT: Tensor, mask_BT: Tensor) -> PpoCriticWrites:
        """See `critic_target`."""
        return critic_target(value_target_BT, mask_BT)

    def compute(self, *, value_raw_BT: Tensor, critic_target_BT: Tensor, mask_BT: Tensor) -> Terms:
        """The term `value`."""
        return {"value": Term(self.codec.loss(value_raw_BT, critic_target_BT), mask_BT, self.vf_coef)}


class ClippedPpoCritic(Loss):
    """The larger of the squared errors of V and of V clipped to +-vf_clip_coef around its old value.

    The old value is that at the batch's start. Only for scalar heads; for categorical heads the
    plan uses `PpoCritic` and adds a note.
    """

    name = "ppo_critic"

    def __init__(self, context: Context) -> None:
        self.vf_coef = context.trainer.losses.ppo_critic.vf_coef
        self.clip = context.trainer.losses.ppo_critic.vf_clip_coef
        self.codec = context.codec

    def prepare(self, *, value_target_BT: Tensor, mask_BT: Tensor) -> PpoCriticWrites:
        """See `critic_target`."""
        return critic_target(value_target_BT, mask_BT)

    def compute(self, *, value_raw_BT: Tensor, old_value_BT1: Tensor, critic_target_BT: Tensor, mask_BT: Tensor) -> Terms:
        """The term `value`."""
        old_BT = old_value_BT1[:, :-1]
        value_BT = self.codec.value(value_raw_BT)
        clipped_BT = old_BT + (value_BT - old_BT).clamp(-self.clip, self.clip)
        loss_BT = 0.5 * torch.maximum((value_BT - critic_target_BT) ** 2, (clipped_BT - critic_target_BT) ** 2)
        return {"value": Term(loss_BT, mask_BT, self.vf_coef)}


def choose(question: Question) -> Choice | None:
    """Choose the class; clipping needs a scalar value head."""
    settings = question.trainer.losses.ppo_critic
    if not settings.enabled:
        return None
    if not settings.clip_vloss:
        return Choice(PpoCritic)
    if question.agent.value_head == "categorical":
        return Choice(PpoCritic, notes=("ppo_critic.vf_clip_coef is ignored: agent.value_head is categorical",))
    return Choice(ClippedPpoCritic)
