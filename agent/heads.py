"""Heads that predict a return or a reward, as a scalar or as a distribution over bins.

The categorical head follows MuZero (Schrittwieser et al. 2020, appendix F). Targets are transformed by
h(x) = sgn(x)(sqrt(|x| + 1) - 1) + 0.001 x and spread over the two nearest bins, so that rewards may
have any scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt
from typing import Protocol

import torch
from torch import Tensor, nn

H_EPSILON = 0.001


def signed_hyperbolic(x: Tensor) -> Tensor:
    """h(x) = sgn(x)(sqrt(|x| + 1) - 1) + 0.001 x; h(100) = 9.14987562."""
    return x.sign() * ((x.abs() + 1).sqrt() - 1) + H_EPSILON * x


def signed_parabolic(y: Tensor) -> Tensor:
    """The inverse of `signed_hyperbolic`.

    The usual form (root - 1) / (2 epsilon) subtracts two numbers near 1, which leaves only three digits
    of float32: too few to compare the values of two actions. The equivalent form
    2 (|y| + 1 + epsilon) / (root + 1) keeps the precision.
    """
    shifted = y.abs() + 1 + H_EPSILON
    root = (1 + 4 * H_EPSILON * shifted).sqrt()
    return y.sign() * ((2 * shifted / (root + 1)) ** 2 - 1)


def nearest_bins(y: Tensor, num_bins: int, limit: float) -> tuple[Tensor, Tensor]:
    """The two-hot distribution of each number, clipped to [-limit, limit].

    Only the two nearest bins have a probability above 0, and the distribution's mean is the number.

    Returns:
        The index of the lower bin, and the probability of the bin above it.
    """
    position = (y.clamp(-limit, limit) + limit) * ((num_bins - 1) / (2 * limit))
    lower = position.floor().clamp(max=num_bins - 2)
    return lower.long(), position - lower


class ValueCodec(Protocol):
    """Converts a head's raw output to a number and computes its loss."""

    width: int

    def value(self, raw: Tensor) -> Tensor:
        """The predicted number `[...]` of a raw output `[..., width]`."""
        ...

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        """The loss per element, `[...]`; no gradient flows into the target."""
        ...


class ScalarCodec:
    """The raw output is the predicted number; the loss is half the squared error."""

    width = 1

    def value(self, raw: Tensor) -> Tensor:
        """`[..., 1]` to `[...]`."""
        return raw.squeeze(-1)

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        """1/2 (raw - target)^2."""
        return 0.5 * (raw.squeeze(-1) - target.detach()) ** 2


class CategoricalCodec:
    """The raw output holds logits over bins; the loss is the cross-entropy to the two-hot target.

    Args:
        num_bins: the number of bins, odd.
        limit: the bins span [-limit, limit] after the transformation h.
    """

    def __init__(self, num_bins: int, limit: float) -> None:
        self.width = num_bins
        self.limit = limit

    def value(self, raw: Tensor) -> Tensor:
        """The inverse of h at the mean of the distribution over bins."""
        bins = torch.linspace(-self.limit, self.limit, self.width, device=raw.device)
        return signed_parabolic((raw.float().softmax(-1) * bins).sum(-1))

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        """The cross-entropy in nats. Only the two bins of the target are read."""
        lower, upper_weight = nearest_bins(signed_hyperbolic(target.detach()), self.width, self.limit)
        pair = raw.float().log_softmax(-1).gather(-1, torch.stack([lower, lower + 1], -1))
        return -((1 - upper_weight) * pair[..., 0] + upper_weight * pair[..., 1])


def make_codec(kind: str, *, num_bins: int, limit: float) -> ValueCodec:
    """Create the codec of a kind of head, `scalar` or `categorical`."""
    return ScalarCodec() if kind == "scalar" else CategoricalCodec(num_bins, limit)


class LatentHead(nn.Module):
    """One hidden layer and an output layer that starts at zero: an untrained model predicts 0."""

    def __init__(self, latent_size: int, hidden: int, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(latent_size, hidden)
        self.output = nn.Linear(hidden, width)
        zero_init(self.output)

    def forward(self, latent: Tensor) -> Tensor:
        """`[..., H]` to `[..., width]`."""
        output: Tensor = self.output(torch.relu(self.hidden(latent)))
        return output


class PartHead(nn.Linear):
    """A linear head that reads columns `first` to `last - 1` of the latent state."""

    def __init__(self, first: int, last: int, width: int) -> None:
        super().__init__(last - first, width)
        self.first = first
        self.last = last

    def forward(self, latent: Tensor) -> Tensor:
        """`[..., H]` to `[..., width]`."""
        return super().forward(latent[..., self.first : self.last])


def zero_init(layer: nn.Linear) -> None:
    """Set weights and bias to zero."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def orthogonal_init(layer: nn.Linear | nn.Conv2d, gain: float) -> None:
    """Set orthogonal weights and a zero bias."""
    nn.init.orthogonal_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def dense_layers(sizes: Sequence[int], activation: type[nn.Module]) -> nn.Sequential:
    """Linear layers with orthogonal weights of gain sqrt(2), each followed by the activation."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        linear = nn.Linear(inputs, outputs)
        orthogonal_init(linear, sqrt(2))
        layers += [linear, activation()]
    return nn.Sequential(*layers)
