"""Converts a received batch to the tensors that the plan reads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from agent.masks import allowed_in, masked
from agent.policies import Policies
from agent.spec import AgentSpec
from learner.nodes.network import WeighedInputs
from learner.settings import TrainerSettings
from protocol.data.batch import Batch
from protocol.data.observations import each
from protocol.data.spaces import ACTION_MASK
from protocol.data.trajectory import Array


def to_inputs(
    batch: Batch, spec: AgentSpec, trainer: TrainerSettings, device: torch.device, *, reward_factor: float = 1.0
) -> WeighedInputs:
    """Convert a batch to tensors, scale and clip its rewards, and mask absent agents and burn-in.

    Args:
        batch: the batch; its arrays must be writable. On the CPU they are not copied.
        spec: the network's specification.
        trainer: has the reward scale and clip.
        device: the tensors' device.
        reward_factor: multiplies rewards in addition to `trainer.reward_scale`; see `RewardScale`.
    """
    present = batch if batch.valid.all() else without_absent(batch)

    def tensor(array: Array) -> torch.Tensor:
        return torch.from_numpy(array).to(device, non_blocking=True)

    observations_BT1 = each(tensor, present.observations)
    behaviour_logits = masked(tensor(present.behaviour_logits), allowed_in(observations_BT1))

    mask_BT = tensor(batch.valid)
    if spec.settings.burn_in:
        mask_BT = mask_BT.clone()
        mask_BT[:, : spec.settings.burn_in] = False
    rewards = tensor(present.rewards) * (trainer.reward_scale * reward_factor)
    if trainer.reward_clip is not None:
        rewards = rewards.clamp(-trainer.reward_clip, trainer.reward_clip)
    inputs: WeighedInputs = {
        "observations_BT1": observations_BT1,
        "core_state_BS": tensor(present.core_state),
        "actions_BT": tensor(present.actions),
        "rewards_BT": rewards,
        "terminated_BT": tensor(batch.terminated),
        "truncated_BT": tensor(batch.truncated),
        "mask_BT": mask_BT,
        "behaviour_log_probs_BTA": Policies(spec.spaces.action, spec.settings.squash).normalise(behaviour_logits),
        "final_observations": each(tensor, batch.final_observations),
        "final_trajectory": tensor(batch.final_trajectory).long(),
        "final_step": tensor(batch.final_step).long(),
        "fresh_B": tensor(batch.fresh),
    }
    if batch.importance is not None and (batch.importance != 1).any():
        inputs["importance_B"] = tensor(batch.importance)
    return inputs


def without_absent(batch: Batch) -> Batch:
    """The batch with zeros at steps where a row's agent was absent.

    Such steps may contain any values, including NaN, and a mask is not enough: in the backward pass 0 * NaN
    is NaN. Integer observations cannot be NaN and stay unchanged. Action masks allow everything there.
    """
    absent_BT = ~batch.valid
    cleared = {name: getattr(batch, name).copy() for name in ("actions", "rewards", "behaviour_logits")}
    for array in cleared.values():
        array[absent_BT] = 0
    cleared["core_state"] = batch.core_state.copy()
    cleared["core_state"][absent_BT[:, 0]] = 0

    def clear(observations: Array) -> Array:
        if observations.dtype.kind not in "fb":
            return observations
        copied = observations.copy()
        copied[:, :-1][absent_BT] = 0
        copied[absent_BT[:, -1], -1] = 0
        return copied

    cleared["observations"] = each(clear, batch.observations)
    if isinstance(batch.observations, dict) and ACTION_MASK in batch.observations:
        cleared["observations"][ACTION_MASK] |= np.pad(absent_BT, ((0, 0), (0, 1)))[..., None]
    return replace(batch, **cleared)
