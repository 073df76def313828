"""The running scale of advantages, sigma: the losses divide advantages by it."""

from __future__ import annotations

import torch
from torch import Tensor

from learner.ranks.reduce import Reducer

MIN_WEIGHT = 1e-30
"""Replaces the sum of weights, 0, before the first batch."""


class AdvantageScale:
    """The running second moment of R - v_prior, not centred, with Adam's bias correction.

    Args:
        decay: the decay of the running average, per batch.
        eps: added to the average before taking the root.
        reducer: sums over ranks.

    Source: Hessel et al. 2021, arXiv:2104.06159, section 4.5 and appendix.
    """

    def __init__(self, decay: float, eps: float, reducer: Reducer) -> None:
        self.decay = decay
        self.eps = eps
        self.reducer = reducer
        self.moment = torch.zeros((), dtype=torch.float64)
        self.weight = torch.zeros((), dtype=torch.float64)

    def update(self, error_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Update the average with one batch and return sigma, a scalar.

        A batch with a non-finite error or without a valid step does not change the average, so that one
        bad batch does not affect the scale of later batches.
        """
        squares = torch.where(mask_BT, error_BT, 0.0).double().square().sum()
        total, count = self.reducer.sum(torch.stack([squares, mask_BT.sum()]))
        moment, weight = self.moment.to(total.device), self.weight.to(total.device)
        counts = torch.isfinite(total) & (count > 0)
        self.moment = torch.where(counts, self.decay * moment + (1 - self.decay) * total / count, moment)
        self.weight = torch.where(counts, self.decay * weight + (1 - self.decay), weight)
        return (self.moment / self.weight.clamp(min=MIN_WEIGHT) + self.eps).sqrt().float()

    def state(self) -> dict[str, float]:
        """The state for the checkpoint."""
        return {"moment": float(self.moment), "weight": float(self.weight)}

    def load(self, state: dict[str, float]) -> None:
        """Restore what `state` returned."""
        self.moment = torch.tensor(state["moment"], dtype=torch.float64)
        self.weight = torch.tensor(state["weight"], dtype=torch.float64)
