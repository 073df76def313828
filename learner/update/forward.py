"""The tensors of a minibatch that the network reads, and its forward pass on them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from agent.model import ModelNeeds, ModelOutputs
from protocol.data.observations import ObservationDict

FOLLOWING_ACTIONS = "following_actions"
"""For each single step: its action and the following ones, one for each step of the dynamics model."""

FOLLOWING_MASKS = "following_masks"
"""For each single step: its action mask and the following ones, one for each step of the dynamics model."""

STARTS = "starts"
"""The steps of a minibatch from which the dynamics model is unrolled; absent if it is unrolled from all, and empty if it is not
unrolled (`dynamics.update_every`)."""

KEY = "observations_BT"
"""The name of a minibatch's observations. Dict observations have one tensor per key, whose name starts with the key's path."""


def is_unrolled(minibatch: Mapping[str, Tensor]) -> bool:
    """Whether the dynamics model is unrolled from steps of a minibatch, if a loss needs it."""
    return STARTS not in minibatch or len(minibatch[STARTS]) > 0


def model_outputs(model: nn.Module, minibatch: Mapping[str, Tensor], needs: ModelNeeds) -> ModelOutputs:
    """The model's outputs for a minibatch."""
    outputs: ModelOutputs = model(
        minibatch[KEY] if KEY in minibatch else unkeyed(minibatch),
        minibatch.get("core_state_BS"),
        minibatch.get("ends_BT"),
        minibatch.get(FOLLOWING_ACTIONS, minibatch.get("actions_BT")),
        needs if is_unrolled(minibatch) else ModelNeeds(),
        minibatch.get(FOLLOWING_MASKS),
        minibatch.get(STARTS),
    )
    return outputs


def keyed(observations: ObservationDict[Tensor]) -> dict[str, Tensor]:
    """Dict observations as entries of a minibatch, one per key."""
    return {f"{path}_{KEY}": values for path, values in observations.items()}


def unkeyed(minibatch: Mapping[str, Tensor]) -> ObservationDict[Tensor]:
    """The Dict observations of a minibatch; the inverse of `keyed`."""
    suffix = f"_{KEY}"
    return ObservationDict({name.removesuffix(suffix): value for name, value in minibatch.items() if name.endswith(suffix)})
