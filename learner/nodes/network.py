"""Plan nodes that evaluate the trained network and the prior network.

A node is part of the plan only if another node or loss reads one of its outputs.
"""

from __future__ import annotations

from typing import NamedTuple, TypedDict

import torch
from torch import Tensor

from agent.masks import allowed_in, uniform_entropy
from agent.model import AgentModel, RootOutputs, UnrollOutputs
from learner.loss import Context, Node, Statistic


class BatchInputs(TypedDict):
    """The batch's own arrays; any node may read them."""

    observations_BT1: Tensor  # [B, T + 1, ...]; of a Dict a tensor a key, as in ObservationDict
    core_state_BS: Tensor
    actions_BT: Tensor  # [B, T] or [B, T, width]; numbers as sampled, before squashing
    rewards_BT: Tensor  # scaled and clipped
    terminated_BT: Tensor
    truncated_BT: Tensor
    mask_BT: Tensor  # False for absent agents and burn-in
    behaviour_log_probs_BTA: Tensor  # normalised policy rows (`agent.policies`), like all `log_probs`
    final_observations: Tensor  # [F, ...]; not indexed by B, so only `prepare` may read it
    final_trajectory: Tensor
    final_step: Tensor
    fresh_B: Tensor  # False for rows from the replay buffer


class WeighedInputs(BatchInputs, total=False):
    """The batch's arrays and the weight of each row, which only the objective reads."""

    importance_B: Tensor  # the weight of each row's terms; absent if all weights are 1


class ForwardWrites(TypedDict):
    """Outputs of the trained network at the start of the batch."""

    old_log_probs_BTA: Tensor
    old_value_BT1: Tensor
    final_value_BT: Tensor  # V of the final observation at truncated steps; 0 elsewhere
    importance_ratio_BT: Tensor  # pi_old / pi_b of the taken action


class Outputs(NamedTuple):
    """Outputs of a network for a whole batch.

    Attributes:
        latent_BTH: the latent of every step.
        log_probs_BTA: the policy's normalised rows.
        value_BT1: the values of all observations.
        final_value_BT: the values of the final observations of truncated steps; 0 elsewhere.
    """

    latent_BTH: Tensor
    log_probs_BTA: Tensor
    value_BT1: Tensor
    final_value_BT: Tensor


def evaluate(
    model: AgentModel, observations_BT1: Tensor, core_state_BS: Tensor, ended_BT: Tensor, finals: tuple[Tensor, Tensor, Tensor]
) -> Outputs:
    """Evaluate a network on a whole batch.

    Args:
        model: the network.
        observations_BT1: as in `BatchInputs`.
        core_state_BS: as in `BatchInputs`.
        ended_BT: the last step of each episode.
        finals: final observations, their trajectories and their steps. They are evaluated with the
            recurrent state before the reset.
    """
    latent_BT1H, state_BT1S = model.latents(observations_BT1, core_state_BS, ended_BT)
    value_BT1 = model.codec.value(model.value(latent_BT1H))
    final_value_BT = torch.zeros_like(value_BT1[:, :-1])
    final_observations, trajectory, step = finals
    if step.numel():
        latent = model.encode(final_observations)
        if model.core is not None:
            latent, _ = model.core.step(latent, state_BT1S[trajectory, step])
        final_value_BT[trajectory, step] = model.codec.value(model.value(latent)).to(final_value_BT.dtype)
    latent_BTH = latent_BT1H[:, :-1]
    log_probs_BTA = model.policies.normalise(model.policy_rows(latent_BTH, allowed_in(observations_BT1)))
    return Outputs(latent_BTH, log_probs_BTA, value_BT1, final_value_BT)


class Forward(Node):
    """Policy and value of the trained network."""

    name = "forward"
    minibatch_writes = RootOutputs
    anchors = ("old_log_probs_BTA",)

    def __init__(self, context: Context) -> None:
        self.model = context.model

    def prepare(
        self,
        *,
        observations_BT1: Tensor,
        core_state_BS: Tensor,
        actions_BT: Tensor,
        terminated_BT: Tensor,
        truncated_BT: Tensor,
        behaviour_log_probs_BTA: Tensor,
        final_observations: Tensor,
        final_trajectory: Tensor,
        final_step: Tensor,
    ) -> ForwardWrites:
        """Evaluate the whole batch once, before the first update."""
        finals = (final_observations, final_trajectory, final_step)
        outputs = evaluate(self.model, observations_BT1, core_state_BS, terminated_BT | truncated_BT, finals)
        policies = self.model.policies
        log_ratio = policies.log_ratio(outputs.log_probs_BTA, behaviour_log_probs_BTA, actions_BT)
        return {
            "old_log_probs_BTA": outputs.log_probs_BTA,
            "old_value_BT1": outputs.value_BT1,
            "final_value_BT": outputs.final_value_BT,
            "importance_ratio_BT": policies.ratio(log_ratio),
        }

    def measure(self, *, old_log_probs_BTA: Tensor, mask_BT: Tensor, fresh_B: Tensor) -> dict[str, Statistic]:
        """The policy's entropy in nats; reported with any losses.

        Where an action has numbers, also their log std: its mean, least and largest over the numbers, averaged over the
        fresh steps. With action masks also the entropy of the uniform policy over the allowed choices.
        """
        policies = self.model.policies
        statistics = {"entropy": Statistic(policies.entropy(old_log_probs_BTA), mask_BT)}
        if policies.dimensions:
            log_std_BTD, fresh_BT = policies.log_stds(old_log_probs_BTA), mask_BT & fresh_B[:, None]
            statistics["log_std"] = Statistic(log_std_BTD.mean(-1), fresh_BT)
            statistics["log_std_min"] = Statistic(log_std_BTD.amin(-1), fresh_BT)
            statistics["log_std_max"] = Statistic(log_std_BTD.amax(-1), fresh_BT)
        if self.model.spec.spaces.masked:
            statistics["uniform_entropy"] = Statistic(uniform_entropy(old_log_probs_BTA, policies.sizes), mask_BT)
        return statistics


class PriorWrites(TypedDict):
    """Outputs of the prior network, an exponential moving average of the trained one."""

    prior_latent_BTH: Tensor
    prior_log_probs_BTA: Tensor
    prior_value_BT1: Tensor
    prior_final_value_BT: Tensor


class Prior(Node):
    """Policy and value of the prior network, without gradient."""

    name = "prior"

    def __init__(self, context: Context) -> None:
        self.model = context.prior

    def prepare(
        self,
        *,
        observations_BT1: Tensor,
        core_state_BS: Tensor,
        terminated_BT: Tensor,
        truncated_BT: Tensor,
        final_observations: Tensor,
        final_trajectory: Tensor,
        final_step: Tensor,
    ) -> PriorWrites:
        """Evaluate the whole batch once with the prior network."""
        finals = (final_observations, final_trajectory, final_step)
        outputs = evaluate(self.model, observations_BT1, core_state_BS, terminated_BT | truncated_BT, finals)
        return {
            "prior_latent_BTH": outputs.latent_BTH,
            "prior_log_probs_BTA": outputs.log_probs_BTA,
            "prior_value_BT1": outputs.value_BT1,
            "prior_final_value_BT": outputs.final_value_BT,
        }


class Unroll(Node):
    """The dynamics model's outputs. The node only declares them: the forward pass computes them."""

    name = "unroll"
    minibatch_writes = UnrollOutputs

    def compute(self, *, actions_BT: Tensor) -> None:
        """Computed by the model's forward pass; the signature declares that it needs the actions."""
