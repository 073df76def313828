"""Unpacks the weights that the learner sends into a network's parameters and its normaliser."""

from __future__ import annotations

from math import prod

import numpy as np
import torch

from agent.model import AgentModel, acting_parameters, acting_tensors
from oatmill.errors import WireError
from protocol.data.weights import Weights

WIRE_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def load_packed(model: AgentModel, weights: Weights) -> None:
    """Copy packed weights into the parameters needed for acting, without an intermediate copy.

    Args:
        model: the network, on any device; its layout must be that of the weights.
        weights: the arrays of `agent.model.acting_layout`, packed in one buffer.

    Raises:
        WireError: `weights_layout` if the weights belong to another network.
    """
    parameters = [parameter for _, parameter in acting_parameters(model)]
    wire = WIRE_DTYPES[weights.dtype]
    expected, got = (
        sum(tensor.numel() for _, tensor in acting_tensors(model)),
        memoryview(weights.buffer).nbytes / wire.itemsize,
    )
    if got != expected:
        raise WireError("weights_layout", f"expected {expected} numbers for this network, got {got:g}")
    flat = torch.from_numpy(np.require(np.frombuffer(weights.buffer, np.uint8), requirements="W")).view(wire)
    start = 0
    with torch.no_grad():
        for parameter in parameters:
            stop = start + prod(parameter.shape)
            parameter.copy_(flat[start:stop].view(parameter.shape))
            start = stop
    if model.normaliser is not None:
        model.normaliser.unpack(flat[start:].view(model.normaliser.packed().shape))
