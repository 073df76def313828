"""Train the dynamics model's rewards and values along the taken actions.

Source: Schrittwieser et al. 2020, "MuZero", arXiv:1911.08265, eq. 1 and appendix G.
"""

from __future__ import annotations

from typing import TypedDict

import torch
from torch import Tensor

from learner.loss import Choice, Context, Loss, Question, Statistic, Term, Terms, itself
from learner.nodes.masks import ahead, shift, unroll_masks
from learner.nodes.return_estimators import bootstrap_values


class DynamicsWrites(TypedDict):
    """Targets and masks for every step t and model step k, computed once per batch; all `[B, T, K]`."""

    model_reward_target_BTK: Tensor
    model_reward_mask_BTK: Tensor
    model_value_target_BTK: Tensor
    model_value_mask_BTK: Tensor


class Dynamics(Loss):
    """Losses of the model's reward at t + k - 1 and its value at t + k, for k = 1..unroll_steps."""

    name = "dynamics"

    def __init__(self, context: Context) -> None:
        self.settings = context.trainer.losses.dynamics
        self.codec = context.codec

    def prepare(
        self,
        *,
        rewards_BT: Tensor,
        terminated_BT: Tensor,
        truncated_BT: Tensor,
        value_target_BT: Tensor,
        mask_BT: Tensor,
    ) -> DynamicsWrites:
        """Shift rewards and value targets along the trajectory and mask them after an episode's end."""
        steps = self.settings.unroll_steps
        masks = unroll_masks(terminated_BT, truncated_BT, mask_BT, steps)
        value_BTK = torch.where(masks.absorbing, 0.0, ahead(value_target_BT, steps, first=1))
        return {
            "model_reward_target_BTK": torch.where(masks.reward, ahead(rewards_BT, steps, first=0), 0.0),
            "model_reward_mask_BTK": masks.reward,
            "model_value_target_BTK": torch.where(masks.value, value_BTK, 0.0),
            "model_value_mask_BTK": masks.value,
        }

    def compute(
        self,
        *,
        model_reward_raw_BTK: Tensor,
        model_value_raw_BTK: Tensor,
        model_reward_target_BTK: Tensor,
        model_reward_mask_BTK: Tensor,
        model_value_target_BTK: Tensor,
        model_value_mask_BTK: Tensor,
    ) -> Terms:
        """The terms `returns` and `reward`, and statistics per model step.

        `used_fraction` is the fraction of value targets that are not masked.
        """
        reward_BTK = self.codec.loss(model_reward_raw_BTK, model_reward_target_BTK)
        value_BTK = self.codec.loss(model_value_raw_BTK, model_value_target_BTK)
        terms: dict[str, Term | Statistic] = {
            "returns": Term(value_BTK, model_value_mask_BTK, self.settings.returns_pred_coef),
            "reward": Term(reward_BTK, model_reward_mask_BTK, self.settings.reward_pred_coef),
        }
        value_BTK, reward_BTK = value_BTK.detach(), reward_BTK.detach()
        everywhere = torch.ones_like(model_value_mask_BTK)
        terms["used_fraction"] = Statistic.later(Tensor.float, (model_value_mask_BTK,), everywhere)
        for k in range(self.settings.unroll_steps):
            terms[f"returns_{k + 1}"] = Statistic.later(itself, (value_BTK,), model_value_mask_BTK, last=k)
            terms[f"reward_{k + 1}"] = Statistic.later(itself, (reward_BTK,), model_reward_mask_BTK, last=k)
        return terms


class BootstrapDynamics(Dynamics):
    """The same with the prior network's value of the state at t + k as the value's target.

    It depends on the state reached and not on what happened later, as in a one-step temporal difference. It is known
    for the final observation of a truncated episode and for the last observation of the trajectory, too.
    """

    def prepare(  # type: ignore[override]
        self,
        *,
        rewards_BT: Tensor,
        terminated_BT: Tensor,
        truncated_BT: Tensor,
        prior_value_BT1: Tensor,
        prior_final_value_BT: Tensor,
        mask_BT: Tensor,
    ) -> DynamicsWrites:
        """Shift rewards and the prior's values along the trajectory and mask them after an episode's end."""
        following_BT = bootstrap_values(prior_value_BT1[:, 1:], prior_final_value_BT, terminated_BT, truncated_BT)
        return self.of_steps(rewards_BT, following_BT, terminated_BT, truncated_BT, mask_BT)

    def of_steps(
        self, rewards_BT: Tensor, value_BT: Tensor, terminated_BT: Tensor, truncated_BT: Tensor, mask_BT: Tensor
    ) -> DynamicsWrites:
        """The rewards and values of the steps t + k - 1; a value is known if the observation after its step is."""
        steps = self.settings.unroll_steps
        reward_mask_BTK = unroll_masks(terminated_BT, truncated_BT, mask_BT, steps).reward
        known_BT = terminated_BT | truncated_BT | shift(mask_BT, 1, fill=True)
        value_mask_BTK = reward_mask_BTK & ahead(known_BT, steps, first=0)
        return {
            "model_reward_target_BTK": torch.where(reward_mask_BTK, ahead(rewards_BT, steps, first=0), 0.0),
            "model_reward_mask_BTK": reward_mask_BTK,
            "model_value_target_BTK": torch.where(value_mask_BTK, ahead(value_BT, steps, first=0), 0.0),
            "model_value_mask_BTK": value_mask_BTK,
        }


class AdvantageDynamics(BootstrapDynamics):
    """The same with the one-step advantage of the action at t + k - 1, in units of sigma, as the value's target.

    The state's own value is subtracted from the target, so what is left to learn is how actions differ.
    """

    def prepare(  # type: ignore[override]
        self,
        *,
        rewards_BT: Tensor,
        terminated_BT: Tensor,
        truncated_BT: Tensor,
        one_step_advantage_BT: Tensor,
        mask_BT: Tensor,
    ) -> DynamicsWrites:
        """Shift rewards and advantages along the trajectory and mask them after an episode's end."""
        return self.of_steps(rewards_BT, one_step_advantage_BT, terminated_BT, truncated_BT, mask_BT)


def choose(question: Question) -> Choice | None:
    """Choose the class by the value's target."""
    settings = question.trainer.losses.dynamics
    if not settings.enabled:
        return None
    classes = {"return": Dynamics, "prior_bootstrap": BootstrapDynamics, "advantage": AdvantageDynamics}
    return Choice(classes[settings.value_target])
