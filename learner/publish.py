"""A network's acting weights, packed for the wire."""

from __future__ import annotations

import torch

from agent.model import AgentModel, acting_parameters
from protocol.weights import Weights, WireDtype, digest_of

WIRE_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def pack(model: AgentModel, version: int, dtype: WireDtype) -> Weights:
    """All that acting needs, flat, in the order of `agent.model.acting_layout`.

    The learner waits for this, so every number is read once and written once, rounded on the way, and then read by the digest.

    Args:
        model: on any device.
        version: the policy version.
        dtype: how numbers travel; bfloat16 halves the bytes.
    """
    with torch.no_grad():
        parameters = [parameter.detach() for _, parameter in acting_parameters(model)]
        flat = torch.empty(sum(map(torch.numel, parameters)), dtype=WIRE_DTYPES[dtype], device=parameters[0].device)
        start = 0
        for parameter in parameters:
            flat[start : start + parameter.numel()].view(parameter.shape).copy_(parameter)
            start += parameter.numel()
    buffer = flat.view(torch.uint8).cpu().numpy().data
    return Weights(version, buffer, dtype, digest_of(version, dtype, buffer))
