"""The norm of each loss's gradient on the trunk, and its cosine with the total gradient.

The value of a loss does not show how strongly it affects training. PPO's surrogate is about 0 even if its
gradient is large, and training may reduce a cross-entropy of 5 nats by only 0.03. The gradient on the
shared parameters shows the effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from learner.ranks.reduce import Reducer


def trunk_gradients(losses: Mapping[str, Tensor], trunk: Sequence[nn.Parameter], reducer: Reducer) -> Tensor:
    """Norms and cosines of the weighted losses' gradients on the trunk.

    Args:
        losses: each loss's weighted sum in this minibatch; its graph is kept.
        trunk: the parameters of encoder and core.
        reducer: averages the gradients over ranks before the norms are computed.

    Returns:
        `[losses, 2]`: the norm before clipping, and the cosine with the sum of all gradients.
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
