"""Plan nodes that compute advantages and value targets."""

from __future__ import annotations

from typing import TypedDict

import torch
from torch import Tensor

from agent import distribution
from learner.loss import Context, Node, Statistic
from learner.nodes.return_estimators import carried_back, gae_vtrace, retrace


class ReturnsWrites(TypedDict):
    """Advantages for the actor and targets for the critic, in units of scaled reward."""

    advantage_BT: Tensor
    value_target_BT: Tensor
    action_return_BT: Tensor  # an estimate of the taken action's q, without its own importance ratio


class GaeVtrace(Node):
    """GAE with V-trace's corrections, from the trained network's values."""

    name = "returns"

    def __init__(self, context: Context) -> None:
        self.gamma = context.trainer.discount
        self.critic = context.trainer.losses.ppo_critic

    def prepare(
        self,
        *,
        rewards_BT: Tensor,
        terminated_BT: Tensor,
        truncated_BT: Tensor,
        old_value_BT1: Tensor,
        final_value_BT: Tensor,
        importance_ratio_BT: Tensor,
    ) -> ReturnsWrites:
        """See `learner.nodes.return_estimators.gae_vtrace`."""
        returns = gae_vtrace(
            rewards_BT=rewards_BT,
            terminated_BT=terminated_BT,
            truncated_BT=truncated_BT,
            value_BT1=old_value_BT1,
            final_value_BT=final_value_BT,
            importance_ratio_BT=importance_ratio_BT,
            gamma=self.gamma,
            gae_lambda=self.critic.gae_lambda,
            rho_clip=self.critic.rho_clip,
            c_clip=self.critic.c_clip,
        )
        return {
            "advantage_BT": returns.advantage,
            "value_target_BT": returns.value_target,
            "action_return_BT": returns.advantage + old_value_BT1[:, :-1],
        }

    def measure(
        self,
        *,
        value_target_BT: Tensor,
        old_value_BT1: Tensor,
        importance_ratio_BT: Tensor,
        terminated_BT: Tensor,
        truncated_BT: Tensor,
        fresh_B: Tensor,
        mask_BT: Tensor,
    ) -> dict[str, Statistic]:
        """Moments for the explained variance, and the steps that a return uses."""
        decay, ends_BT = self.gamma * self.critic.gae_lambda, terminated_BT | truncated_BT
        used = used_steps(decay, importance_ratio_BT.clamp(max=self.critic.c_clip), ends_BT, fresh_B, mask_BT)
        return variance_moments(value_target_BT, old_value_BT1[:, :-1], mask_BT) | used


class Retrace(Node):
    """Retrace with the prior network's policy and one-step model.

    With several factors the prior network's value replaces the expected q.
    """

    name = "returns"

    def __init__(self, context: Context) -> None:
        self.gamma = context.trainer.discount
        self.retrace_lambda = context.trainer.losses.ppo_critic.gae_lambda
        self.model = context.prior

    def prepare(
        self,
        *,
        rewards_BT: Tensor,
        terminated_BT: Tensor,
        truncated_BT: Tensor,
        actions_BT: Tensor,
        behaviour_log_probs_BTA: Tensor,
        prior_log_probs_BTA: Tensor,
        prior_q_BTA: Tensor,
        prior_value_BT1: Tensor,
        prior_final_value_BT: Tensor,
    ) -> ReturnsWrites:
        """Compute Retrace's G as the value target, and G - v_prior as the advantage."""
        sizes, factored = self.model.sizes, self.model.factored
        q_taken = distribution.log_prob(prior_q_BTA, actions_BT, sizes, factored=factored) / len(sizes)
        # With several factors, q is known only for actions that differ from the taken one in one
        # factor, which is not enough for E_pi q. The prior's value estimates the same number.
        known = len(sizes) == 1
        expected_q = (prior_log_probs_BTA.exp() * prior_q_BTA).sum(-1) if known else prior_value_BT1[:, :-1]
        target = retrace(
            rewards_BT=rewards_BT,
            terminated_BT=terminated_BT,
            truncated_BT=truncated_BT,
            q_taken_BT=q_taken,
            expected_q_BT=expected_q,
            final_value_BT=prior_final_value_BT,
            bootstrap_value_B=prior_value_BT1[:, -1],
            importance_ratio_BT=self.ratio(prior_log_probs_BTA, behaviour_log_probs_BTA, actions_BT),
            gamma=self.gamma,
            retrace_lambda=self.retrace_lambda,
        )
        return returns_of(target, prior_value_BT1)

    def ratio(self, prior_log_probs_BTA: Tensor, behaviour_log_probs_BTA: Tensor, actions_BT: Tensor) -> Tensor:
        """The taken actions' probability under the prior's policy, divided by that under the policy that acted, `[B, T]`."""
        policies = self.model.policies
        return policies.ratio(policies.log_ratio(prior_log_probs_BTA, behaviour_log_probs_BTA, actions_BT))

    def measure(
        self,
        *,
        value_target_BT: Tensor,
        prior_value_BT1: Tensor,
        prior_log_probs_BTA: Tensor,
        behaviour_log_probs_BTA: Tensor,
        actions_BT: Tensor,
        terminated_BT: Tensor,
        truncated_BT: Tensor,
        fresh_B: Tensor,
        mask_BT: Tensor,
    ) -> dict[str, Statistic]:
        """Moments for the explained variance of the prior network's values, and the steps that a return uses."""
        ratio_BT = self.ratio(prior_log_probs_BTA, behaviour_log_probs_BTA, actions_BT).clamp(max=1)
        used = used_steps(self.gamma * self.retrace_lambda, ratio_BT, terminated_BT | truncated_BT, fresh_B, mask_BT)
        return variance_moments(value_target_BT, prior_value_BT1[:, :-1], mask_BT) | used


class DrawnRetrace(Retrace):
    """The same for actions with numbers: the expected q is the mean over actions sampled from the prior."""

    def prepare(  # type: ignore[override]
        self,
        *,
        rewards_BT: Tensor,
        terminated_BT: Tensor,
        truncated_BT: Tensor,
        actions_BT: Tensor,
        behaviour_log_probs_BTA: Tensor,
        prior_log_probs_BTA: Tensor,
        prior_sampled_q_BTN: Tensor,
        prior_taken_q_BT: Tensor,
        prior_value_BT1: Tensor,
        prior_final_value_BT: Tensor,
    ) -> ReturnsWrites:
        """Retrace's G as the value target, G - v_prior as the advantage."""
        target = retrace(
            rewards_BT=rewards_BT,
            terminated_BT=terminated_BT,
            truncated_BT=truncated_BT,
            q_taken_BT=prior_taken_q_BT,
            expected_q_BT=prior_sampled_q_BTN.mean(-1),
            final_value_BT=prior_final_value_BT,
            bootstrap_value_B=prior_value_BT1[:, -1],
            importance_ratio_BT=self.ratio(prior_log_probs_BTA, behaviour_log_probs_BTA, actions_BT),
            gamma=self.gamma,
            retrace_lambda=self.retrace_lambda,
        )
        return returns_of(target, prior_value_BT1)


def returns_of(target_BT: Tensor, prior_value_BT1: Tensor) -> ReturnsWrites:
    """What Retrace writes: its G, and what G is above the prior's value."""
    advantage_BT = target_BT - prior_value_BT1[:, :-1]
    return {"advantage_BT": advantage_BT, "value_target_BT": target_BT, "action_return_BT": target_BT}


def variance_moments(target_BT: Tensor, value_BT: Tensor, mask_BT: Tensor) -> dict[str, Statistic]:
    """First and second moments of the targets and of the values' errors, for the explained variance."""
    error_BT = target_BT - value_BT
    moments = {"target": target_BT, "target_squared": target_BT**2, "error": error_BT, "error_squared": error_BT**2}
    return {name: Statistic(value, mask_BT) for name, value in moments.items()}


def used_steps(decay: float, ratio_BT: Tensor, ends_BT: Tensor, fresh_B: Tensor, mask_BT: Tensor) -> dict[str, Statistic]:
    """How many steps a return uses: the sum of the weights of its temporal differences, 1 + decay ratio_t + ...

    Corrections for data of older policies shorten returns, because a clipped ratio is at most 1 and often less. So the
    statistics are `steps` for fresh rows, `steps_replayed` for others, and `steps_on_policy` with all ratios at 1.

    Args:
        decay: gamma times lambda.
        ratio_BT: the clipped importance ratios of the taken actions.
        ends_BT: whether the episode ended at each step.
        fresh_B: whether each row is trained on for the first time.
        mask_BT: the valid steps.
    """
    ones_BT, fresh_BT = torch.ones_like(ratio_BT), mask_BT & fresh_B.unsqueeze(-1)
    used_BT = carried_back(ones_BT, decay * ratio_BT, ends_BT)
    return {
        "steps": Statistic(used_BT, fresh_BT),
        "steps_replayed": Statistic(used_BT, mask_BT & ~fresh_BT),
        "steps_on_policy": Statistic(carried_back(ones_BT, decay * ones_BT, ends_BT), mask_BT),
    }
