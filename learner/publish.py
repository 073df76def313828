"""A network's acting weights, packed for the wire."""

from __future__ import annotations

import torch

from agent.model import AgentModel, acting_tensors
from agent.packing import WIRE_DTYPES
from protocol.data.buffer_pool import BufferPool
from protocol.data.weights import Weights, WireDtype, digest_of

MAX_BUFFERS = 4
"""Buffers to be packed into again: the newest version is kept, two may be on their way and one may wait."""

_memory = BufferPool(MAX_BUFFERS)  # a version that is kept to be sent, or on its way, holds a reference to its own


def pack(model: AgentModel, version: int, dtype: WireDtype) -> Weights:
    """All that acting needs, flat, in the order of `agent.model.acting_layout`.

    The learner waits for this, so every number is read once and written once, rounded on the way, and then read by the digest.

    Args:
        model: on any device.
        version: the policy version.
        dtype: how numbers travel; bfloat16 halves the bytes.
    """
    with torch.no_grad():
        tensors = [tensor for _, tensor in acting_tensors(model)]
        wire, device = WIRE_DTYPES[dtype], tensors[0].device
        buffer = _memory.take(sum(map(torch.numel, tensors)) * wire.itemsize)
        packed = torch.from_numpy(buffer).view(wire)
        flat = packed if device.type == "cpu" else torch.empty_like(packed, device=device)
        start = 0
        for tensor in tensors:
            flat[start : start + tensor.numel()].view(tensor.shape).copy_(tensor)
            start += tensor.numel()
        if flat is not packed:
            packed.copy_(flat)
    return Weights(version, buffer.data, dtype, digest_of(version, dtype, buffer.data))
