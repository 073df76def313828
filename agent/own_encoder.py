"""Loads the user's own encoder, `agent.encoder=module:make`, and checks that it fits the rest of the network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from agent.spec import AgentSpec
from oatmill.errors import UserError, one_line
from oatmill.user_modules import load_function
from protocol.data.observations import each, zeros

PROBE_ROWS = 2


def make_own_encoder(spec: AgentSpec) -> nn.Module:
    """Call the user's function with a spec, and check the encoder that it returns.

    Args:
        spec: what the encoder sees, `spec.spaces.observation`, and the width of what it gives, the last of
            `spec.settings.hidden_sizes`.

    Raises:
        UserError: if it cannot be loaded, is no module, keeps numbers that would not reach the actors, or gives something else
            than a row of that width for each observation.
    """
    name = f"agent.encoder={spec.settings.encoder}"
    make = load_function(spec.settings.encoder, what="agent.encoder", gives="a torch.nn.Module")
    try:
        encoder: Any = make(spec)
    except Exception as error:
        raise UserError(f"{name} raised {one_line(error)}; expected it to return a torch.nn.Module") from error
    if not isinstance(encoder, nn.Module):
        raise UserError(f"{name} must return a torch.nn.Module, got {type(encoder).__name__}")
    check_state(encoder, name)
    check_output(encoder, spec, name)
    return encoder


def check_state(encoder: nn.Module, name: str) -> None:
    """Refuse an encoder with state beside its parameters: only those are saved, and travel to the actors."""
    kept = sorted(set(encoder.state_dict()) - {parameter for parameter, _ in encoder.named_parameters(remove_duplicate=False)})
    if kept:
        raise UserError(
            f"{name} keeps {', '.join(kept)} beside its parameters, which neither actors nor checkpoints would get; take "
            "LayerNorm for BatchNorm, and register what never changes with persistent=False"
        )


def check_output(encoder: nn.Module, spec: AgentSpec, name: str) -> None:
    """Refuse an encoder that does not give `[N, width]` float32 for observations as they come."""
    observation, width = spec.spaces.observation, spec.settings.hidden_sizes[-1]
    probe = each(torch.from_numpy, zeros(observation, PROBE_ROWS))
    said = ", ".join(
        f"{part.dtype} observations of shape {[PROBE_ROWS, *part.shape]}{path and f' in {path}'}"
        for path, part in observation.parts
    )
    try:
        with torch.no_grad():
            output: Any = encoder(probe)
    except Exception as error:
        raise UserError(f"{name} raised {one_line(error)} on {said}") from error
    expected = (PROBE_ROWS, width)
    if not isinstance(output, Tensor) or tuple(output.shape) != expected or output.dtype != torch.float32:
        came = f"{output.dtype} {list(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise UserError(
            f"{name} must give float32 of shape {list(expected)}, the last of agent.hidden_sizes wide, for {said}, got {came}"
        )
