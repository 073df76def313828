"""Plan nodes that compute q-values with the prior network's one-step model.

The model either predicts the reward and the value of the state that is reached, q = r + gamma v, or, with
`dynamics.value_target=advantage`, how much better an action is than the state's value, q = v(s) + sigma A.
"""

from __future__ import annotations

from typing import TypedDict

import torch
from torch import Tensor

from learner.loss import Context, Node

STATES = 256
"""For so many states at a time, the model steps once for every action: fewer make more calls, more leave the cache."""


class PriorQWrites(TypedDict):
    """q-values of the prior network's one-step model."""

    prior_q_BTA: Tensor


class PriorQ(Node):
    """q(s, a) = r1(s, a) + gamma v1(s, a) of the prior network's model, for every action."""

    name = "prior_q"

    def __init__(self, context: Context) -> None:
        self.model = context.prior
        self.gamma = context.trainer.discount

    def prepare(self, *, prior_latent_BTH: Tensor, actions_BT: Tensor) -> PriorQWrites:
        """One model step per action and state."""
        reward_BTA, value_BTA = self.predicted(prior_latent_BTH, actions_BT)
        return {"prior_q_BTA": reward_BTA + self.gamma * value_BTA}

    def predicted(self, prior_latent_BTH: Tensor, actions_BT: Tensor) -> tuple[Tensor, Tensor]:
        """The model's rewards and values `[B, T, A]`, for a part of the states at a time, which the processor's cache holds."""
        shape = prior_latent_BTH.shape[:2]
        latents, actions = (torch.split(values.flatten(0, 1), STATES) for values in (prior_latent_BTH, actions_BT))
        rewards, values = zip(*map(self.model.every_action, latents, actions), strict=True)
        return torch.cat(rewards).view(*shape, -1), torch.cat(values).view(*shape, -1)


class AdvantageQ(PriorQ):
    """q(s, a) = v(s) + sigma A(s, a), where the model predicts the advantage A in units of sigma."""

    def prepare(  # type: ignore[override]
        self, *, prior_latent_BTH: Tensor, prior_value_BT1: Tensor, sigma: Tensor, actions_BT: Tensor
    ) -> PriorQWrites:
        """One model step per action and state."""
        _, advantage_BTA = self.predicted(prior_latent_BTH, actions_BT)
        return {"prior_q_BTA": prior_value_BT1[:, :-1].unsqueeze(-1) + sigma * advantage_BTA}


class PriorSamplesWrites(TypedDict):
    """N actions sampled from the prior policy, and q-values of them and of the taken actions."""

    prior_actions_BTN: Tensor  # columns [B, T, N, factors]; for actions with numbers, rows [B, T, N, width]
    prior_sampled_q_BTN: Tensor
    prior_taken_q_BT: Tensor


class PriorSamples(Node):
    """q(s, a_i) = r1(s, a_i) + gamma v1(s, a_i) of N sampled actions, for large action spaces."""

    name = "prior_samples"

    def __init__(self, context: Context) -> None:
        self.model = context.prior
        self.gamma = context.trainer.discount
        self.num_samples = context.trainer.losses.prior_samples
        self.generator = context.generator

    def prepare(self, *, prior_latent_BTH: Tensor, prior_log_probs_BTA: Tensor, actions_BT: Tensor) -> PriorSamplesWrites:
        """Sample and evaluate."""
        actions, reward_BTN, value_BTN = self.sampled(prior_latent_BTH, prior_log_probs_BTA)
        reward_BT, value_BT = self.taken(prior_latent_BTH, actions_BT)
        return {
            "prior_actions_BTN": actions,
            "prior_sampled_q_BTN": reward_BTN + self.gamma * value_BTN,
            "prior_taken_q_BT": reward_BT + self.gamma * value_BT,
        }

    def sampled(self, prior_latent_BTH: Tensor, prior_log_probs_BTA: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sampled actions, and the model's rewards and values `[B, T, N]`; one trajectory at a time limits the memory."""
        policies = self.model.policies
        actions, rewards, values = [], [], []
        for latent_TH, log_probs_TA in zip(prior_latent_BTH, prior_log_probs_BTA, strict=True):
            drawn = policies.sample(log_probs_TA.unsqueeze(1).expand(-1, self.num_samples, -1), self.generator)
            indexed = policies.indexed(drawn)
            actions.append(drawn if policies.dimensions else indexed)
            reward, value = self.model.reward_and_value(self.model.transition(latent_TH.unsqueeze(1), indexed))
            rewards.append(reward)
            values.append(value)
        return torch.stack(actions), torch.stack(rewards), torch.stack(values)

    def taken(self, prior_latent_BTH: Tensor, actions_BT: Tensor) -> tuple[Tensor, Tensor]:
        """The model's rewards and values of the taken actions, `[B, T]`."""
        indexed = self.model.policies.indexed(actions_BT)
        return self.model.reward_and_value(self.model.transition(prior_latent_BTH, indexed))


class AdvantageSamples(PriorSamples):
    """q(s, a_i) = v(s) + sigma A(s, a_i) of N sampled actions, where the model predicts the advantage A."""

    def prepare(  # type: ignore[override]
        self,
        *,
        prior_latent_BTH: Tensor,
        prior_log_probs_BTA: Tensor,
        prior_value_BT1: Tensor,
        sigma: Tensor,
        actions_BT: Tensor,
    ) -> PriorSamplesWrites:
        """Sample and evaluate."""
        actions, _, advantage_BTN = self.sampled(prior_latent_BTH, prior_log_probs_BTA)
        _, advantage_BT = self.taken(prior_latent_BTH, actions_BT)
        value_BT = prior_value_BT1[:, :-1]
        return {
            "prior_actions_BTN": actions,
            "prior_sampled_q_BTN": value_BT.unsqueeze(-1) + sigma * advantage_BTN,
            "prior_taken_q_BT": value_BT + sigma * advantage_BT,
        }
