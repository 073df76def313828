"""Categorical policies over actions with one or several factors.

A `MultiDiscrete` action has one factor per choice. A row of logits holds the factors one after
another, and the policy is the product of the factors' softmaxes. With one factor this is the
ordinary categorical distribution.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def log_softmax(logits_A: Tensor, sizes: Sequence[int]) -> Tensor:
    """Log-softmax of each factor's part of the last axis, in nats; the shape stays the same."""
    if len(sizes) == 1:
        return torch.log_softmax(logits_A, -1)
    return torch.cat([torch.log_softmax(part, -1) for part in torch.split(logits_A, list(sizes), -1)], -1)


def factor_sums(values_A: Tensor, sizes: Sequence[int]) -> Tensor:
    """Sum each factor's part of the last axis: `[..., A]` to `[..., factors]`."""
    if len(sizes) == 1:
        return values_A.sum(-1, keepdim=True)
    return torch.stack([part.sum(-1) for part in torch.split(values_A, list(sizes), -1)], -1)


def spread(values_F: Tensor, sizes: Sequence[int]) -> Tensor:
    """Repeat each factor's number over its choices: `[..., factors]` to `[..., A]`."""
    repeats = torch.tensor(list(sizes), device=values_F.device)
    return values_F.repeat_interleave(repeats, -1, output_size=sum(sizes))


def action_columns(actions: Tensor, sizes: Sequence[int], *, factored: bool) -> Tensor:
    """The columns of the taken actions in a row of logits: int64 `[..., factors]`."""
    columns = actions.long() if factored else actions.long().unsqueeze(-1)
    if len(sizes) == 1:
        return columns
    starts = torch.tensor([sum(sizes[:factor]) for factor in range(len(sizes))], device=actions.device)
    return columns + starts


def one_hot(actions: Tensor, sizes: Sequence[int], *, factored: bool) -> Tensor:
    """One-hot encoding of the taken actions, one 1 per factor: float32 `[..., A]`."""
    columns = action_columns(actions, sizes, factored=factored)
    return torch.zeros(*columns.shape[:-1], sum(sizes), device=actions.device).scatter_(-1, columns, 1.0)


def log_prob(log_probs_A: Tensor, actions: Tensor, sizes: Sequence[int], *, factored: bool) -> Tensor:
    """The joint log-probability of the taken actions: the sum over factors, in nats."""
    taken = log_probs_A.gather(-1, action_columns(actions, sizes, factored=factored))
    return taken.squeeze(-1) if len(sizes) == 1 else taken.sum(-1)


def entropy(log_probs_A: Tensor) -> Tensor:
    """The joint policy's entropy (the sum over factors), in nats; log-probabilities must be finite."""
    return -(log_probs_A.exp() * log_probs_A).sum(-1)


def sample(logits_A: Tensor, sizes: Sequence[int], *, factored: bool, generator: torch.Generator | None = None) -> Tensor:
    """Sample one action per row with the Gumbel-max trick: int64 `[...]` or `[..., factors]`."""
    log_probs_A = log_softmax(logits_A, sizes)
    race_A = torch.empty_like(log_probs_A).exponential_(generator=generator).log_().neg_().add_(log_probs_A)
    return argmax(race_A, sizes, factored=factored)


def argmax(scores_A: Tensor, sizes: Sequence[int], *, factored: bool) -> Tensor:
    """The choice with the highest score in each factor: int64 `[...]` or `[..., factors]`."""
    if not factored:
        return scores_A.argmax(-1)
    return torch.stack([part.argmax(-1) for part in torch.split(scores_A, list(sizes), -1)], -1)
