"""A network's acting weights, packed for the wire."""

from __future__ import annotations

import numpy as np
import torch

from agent.model import AgentModel, acting_parameters
from protocol.weights import Weights, WireDtype, digest_of


def pack(model: AgentModel, version: int, dtype: WireDtype) -> Weights:
    """All that acting needs, flat, in the order of `agent.model.acting_layout`.

    Args:
        model: on any device.
        version: the policy version.
        dtype: how numbers travel; bfloat16 halves the bytes.
    """
    with torch.no_grad():
        flat = torch.cat([parameter.detach().flatten() for _, parameter in acting_parameters(model)])
        if dtype == "bfloat16":
            buffer = flat.to(torch.bfloat16).view(torch.uint16).cpu().numpy().tobytes()
        else:
            buffer = flat.float().cpu().numpy().astype(np.float32, copy=False).tobytes()
    return Weights(version, buffer, dtype, digest_of(version, dtype, buffer))
