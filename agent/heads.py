"""Heads that predict a return or a reward, as one number or as a distribution over bins.

The categorical head follows MuZero (Schrittwieser et al. 2020, appendix F): targets are squashed by
h(x) = sgn(x)(sqrt(|x| + 1) - 1) + 0.001 x and spread over the two neighbouring bins. It learns from rewards of any scale.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

H_EPSILON = 0.001


def signed_hyperbolic(x: Tensor) -> Tensor:
    """h(x) = sgn(x)(sqrt(|x| + 1) - 1) + 0.001 x; h(100) = 9.14987562."""
    return x.sign() * ((x.abs() + 1).sqrt() - 1) + H_EPSILON * x


def signed_parabolic(y: Tensor) -> Tensor:
    """The inverse of `signed_hyperbolic`.

    The usual (root - 1) / (2 epsilon) is written as 2 (|y| + 1 + epsilon) / (root + 1): the difference of two numbers near 1
    would lose all but three digits of float32, and with them what tells the values of neighbouring actions apart.
    """
    shifted = y.abs() + 1 + H_EPSILON
    root = (1 + 4 * H_EPSILON * shifted).sqrt()
    return y.sign() * ((2 * shifted / (root + 1)) ** 2 - 1)


def nearest_bins(y: Tensor, num_bins: int, limit: float) -> tuple[Tensor, Tensor]:
    """The two-hot distribution of each number, cut to [-limit, limit]: the mean of the two bins around it is the number.

    Returns:
        The lower bin's index, and the probability of the one above it.
    """
    position = (y.clamp(-limit, limit) + limit) * ((num_bins - 1) / (2 * limit))
    lower = position.floor().clamp(max=num_bins - 2)
    return lower.long(), position - lower


class ValueCodec(Protocol):
    """How a head's raw output stands for a number."""

    width: int

    def value(self, raw: Tensor) -> Tensor:
        """The number that a raw output `[..., width]` stands for, `[...]`."""
        ...

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        """The unreduced loss `[...]` of a raw output against a number; no gradient flows into the target."""
        ...


class ScalarCodec:
    """The raw output is the number; the loss is half the squared error."""

    width = 1

    def value(self, raw: Tensor) -> Tensor:
        """`[..., 1]` to `[...]`."""
        return raw.squeeze(-1)

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        """1/2 (raw - target)^2."""
        return 0.5 * (raw.squeeze(-1) - target.detach()) ** 2


class CategoricalCodec:
    """The raw output is logits over bins in h-space; the loss is the cross-entropy to the two-hot target.

    Args:
        num_bins: an odd number of bins.
        limit: they span [-limit, limit] in h-space.
    """

    def __init__(self, num_bins: int, limit: float) -> None:
        self.width = num_bins
        self.limit = limit

    def value(self, raw: Tensor) -> Tensor:
        """The inverse of h at the mean bin."""
        bins = torch.linspace(-self.limit, self.limit, self.width, device=raw.device)
        return signed_parabolic((raw.float().softmax(-1) * bins).sum(-1))

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        """-sum of two-hot probabilities times log-softmax, in nats; gathers the two bins instead of building the row."""
        lower, upper_weight = nearest_bins(signed_hyperbolic(target.detach()), self.width, self.limit)
        pair = raw.float().log_softmax(-1).gather(-1, torch.stack([lower, lower + 1], -1))
        return -((1 - upper_weight) * pair[..., 0] + upper_weight * pair[..., 1])


def make_codec(kind: str, *, num_bins: int, limit: float) -> ValueCodec:
    """The codec of a head kind, `scalar` or `categorical`."""
    return ScalarCodec() if kind == "scalar" else CategoricalCodec(num_bins, limit)


class LatentHead(nn.Module):
    """One hidden layer and an output that starts at zero, so that an untrained model predicts 0 everywhere."""

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
    """A linear head that reads the columns `first` to `last` of the latent state."""

    def __init__(self, first: int, last: int, width: int) -> None:
        super().__init__(last - first, width)
        self.first = first
        self.last = last

    def forward(self, latent: Tensor) -> Tensor:
        """`[..., H]` to `[..., width]`."""
        return super().forward(latent[..., self.first : self.last])


def zero_init(layer: nn.Linear) -> None:
    """Start a layer at zero."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def orthogonal_init(layer: nn.Linear | nn.Conv2d, gain: float) -> None:
    """Orthogonal weights, zero bias."""
    nn.init.orthogonal_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
