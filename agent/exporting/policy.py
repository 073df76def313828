"""A policy as one module, from observations as the environment gives them to actions that it takes."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from agent.model import NOT_ACTING, AgentModel
from agent.spec import AgentSpec
from protocol.data.observations import ObservationDict
from protocol.data.spaces import ACTION_MASK, ActionPart, DictSpace

ROWS = 2
"""Rows of the example that a module is traced with. torch.export would make 1 row a constant."""


class Port(NamedTuple):
    """An input or an output: its name, its dtype, and the shape of one row. The first axis, N rows, comes before it."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class ExportedPolicy(nn.Module):
    """Maps tensors in the order of `inputs` to tensors in the order of `outputs`.

    Args:
        model: the network; the module has a copy of what acting needs.

    Attributes:
        inputs: the observation as `observation`, or each key as `observation/KEY`; `action_mask`, bool; `state`.
        outputs: the deterministic action as `action`, or each of its parts as `action/KEY`, in the environment's units and
            dtypes; `logits` of all choices; `mean` and `log_std` of numbers before they are clipped or squashed and scaled;
            `value`; `next_state`. Only what the policy has.
        example: one tensor per input, with two rows of zeros.
    """

    low: Tensor
    high: Tensor

    def __init__(self, model: AgentModel) -> None:
        super().__init__()
        self.model = acting_part(model)
        self.spec = model.spec
        action = self.spec.spaces.action
        self.register_buffer("low", torch.tensor(action.low, dtype=torch.float64), persistent=False)
        self.register_buffer("high", torch.tensor(action.high, dtype=torch.float64), persistent=False)
        self.inputs = inputs_of(self.spec)
        self.example = tuple(torch.from_numpy(np.zeros((ROWS, *port.shape), port.dtype)) for port in self.inputs)
        self.eval()
        with torch.no_grad():
            found = self.named(*self.example)
        self.outputs = [Port(name, str(tensor.numpy().dtype), tuple(tensor.shape[1:])) for name, tensor in found.items()]

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """The outputs."""
        return tuple(self.named(*given).values())

    def named(self, *given: Tensor) -> dict[str, Tensor]:
        """The outputs by name."""
        space, action = self.spec.spaces.observation, self.spec.spaces.action
        paths = [path for path, _ in space.parts]
        observations: Any = ObservationDict(zip(paths, given, strict=False)) if isinstance(space, DictSpace) else given[0]
        rows, value, state = self.model.step(observations, given[-1])  # without a core, no state is read
        outputs = self.actions(self.model.policies.executed(self.model.policies.mode(rows)))
        if action.sizes:
            outputs["logits"] = rows[:, : action.num_logits]
        if action.dimensions:
            outputs["mean"], outputs["log_std"] = rows[:, action.num_logits :].chunk(2, -1)
        outputs["value"] = value
        return outputs | ({"next_state": state} if self.spec.core_state_size else {})

    def actions(self, rows: Tensor) -> dict[str, Tensor]:
        """Actions as the environment takes them, by name; the same numbers as `protocol.data.actions.to_environment`.

        Args:
            rows: `[N]` or `[N, width]`; numbers are in -1..1.
        """
        space = self.spec.spaces.action
        if not space.parts:
            return {"action": rows}
        numbers = self.low + (rows[:, len(space.sizes) :].double() + 1) * (0.5 * (self.high - self.low))
        return {"/".join(map(str, ("action", *part.path))): self._leaf(rows, numbers, part) for part in space.parts}

    def _leaf(self, rows: Tensor, numbers: Tensor, part: ActionPart) -> Tensor:
        first, last = part.columns
        skipped = len(self.spec.spaces.action.sizes)
        if part.start:
            values = rows[:, first:last].long() + torch.tensor(part.start)
        else:
            values = numbers[:, first - skipped : last - skipped]
            values = values.round() if np.dtype(part.dtype).kind in "iu" else values
        return values.reshape(-1, *part.shape).to(torch.from_numpy(np.zeros(0, part.dtype)).dtype)


def acting_part(model: AgentModel) -> AgentModel:
    """A copy of a network on the CPU without its dynamics model."""
    part = copy.deepcopy(model).cpu().requires_grad_(requires_grad=False)
    for name, _ in list(part.named_children()):
        if f"{name}.".startswith(NOT_ACTING):
            delattr(part, name)
    return part


def inputs_of(spec: AgentSpec) -> list[Port]:
    """The inputs of a policy: the keys of the observation in their order, then the recurrent state."""
    ports = [Port(_input_name(spec, path), part.dtype, part.shape) for path, part in spec.spaces.observation.parts]
    return ports + ([Port("state", "float32", (spec.core_state_size,))] if spec.core_state_size else [])


def _input_name(spec: AgentSpec, path: str) -> str:
    if path == ACTION_MASK:
        return path
    return f"observation/{path}" if spec.several else "observation"
