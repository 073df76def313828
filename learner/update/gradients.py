"""How strongly each loss trains the trunk: the norm of its gradient there, its share, and its angle to the total.

Loss values are misleading: PPO's surrogate is about 0 whatever its gradient is, and a cross-entropy of 5 may contain only 0.03
nats that training can reduce. The gradient on the shared parameters shows what a loss really does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from learner.distributed import Reducer


def trunk_gradients(losses: Mapping[str, Tensor], trunk: Sequence[nn.Parameter], reducer: Reducer) -> Tensor:
    """Norms and cosines of the weighted losses' gradients on the trunk.

    Args:
        losses: each loss's weighted sum of this minibatch, with its graph, which is kept.
        trunk: the parameters of encoder and core.
        reducer: sums over ranks; the gradients are averaged over ranks before a norm is taken.

    Returns:
        `[losses, 2]`: the norm before any clipping, and the cosine with the sum of all.
    """
    rows = []
    for loss in losses.values():
        if not loss.requires_grad:
            rows.append(torch.zeros(sum(parameter.numel() for parameter in trunk), device=loss.device))
            continue
        gradients = torch.autograd.grad(loss, trunk, retain_graph=True, allow_unused=True)
        flat = [
            torch.zeros_like(parameter) if gradient is None else gradient
            for gradient, parameter in zip(gradients, trunk, strict=True)
        ]
        rows.append(torch.cat([gradient.flatten() for gradient in flat]))
    stacked = reducer.sum(torch.stack(rows)) / reducer.world_size
    norms = stacked.norm(dim=1)
    total = stacked.sum(0)
    cosines = (stacked @ total) / (norms * total.norm()).clamp(min=1e-30)
    return torch.stack([norms, cosines], 1)
