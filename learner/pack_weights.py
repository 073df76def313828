"""Packs the weights needed for acting into one buffer, to be sent to the actors."""

from __future__ import annotations

import torch

from agent.model import AgentModel, acting_tensors
from agent.unpack_weights import WIRE_DTYPES
from protocol.data.buffer_pool import BufferPool
from protocol.data.weights import Weights, WireDtype, digest_of

MAX_BUFFERS = 4
"""Buffers are reused: the newest version is kept, two may be in transit, and one may be waiting."""

_memory = BufferPool(MAX_BUFFERS)  # a version that is kept or in transit holds a reference to its buffer


def pack(model: AgentModel, version: int, dtype: WireDtype) -> Weights:
    """Pack the parameters needed for acting in one buffer, in the order of `agent.model.acting_layout`.

    The learner waits for this, so that each number is converted and copied in one pass.

    Args:
        model: the network, on any device.
        version: the policy version.
        dtype: the data type that is sent; bfloat16 halves the bytes.
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
