"""The running mean and variance of vectors, and vectors normalised by them: part of a network, sent with its weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

VARIANCE_EPS = 1e-8
"""Added to a variance before its root, as Gymnasium and Stable-Baselines3 do."""
RESOLUTION = 2.0**-22
"""Relative to the mean: numbers that differ by less are equal, for that is how finely float32 tells numbers apart."""
WIRE_PARTS = 3
"""The parts of 8 bits each that a float32's 24 bits are sent in, whatever the data type of the weights on the wire."""


class RunningMoments(nn.Module):
    """Subtracts the mean of all vectors so far, divides by their standard deviation and clips.

    The sums are kept in float64 and are not moved by `forward`: only `merge` moves them. Before the first `merge`, vectors are
    only clipped. A number that has never varied is not divided, so it comes out as 0 while it stays what it was.

    Args:
        size: D, the length of a vector.
        clip: results lie in [-clip, clip].

    Attributes:
        count: how many vectors the moments are of, float64 scalar.
        mean: `[D]`, float64.
        squares: `[D]`, float64, the sum of the squared distances from the mean.
        factor: `[D]`, float32, what vectors are multiplied by: 1 over the standard deviation.
        offset: `[D]`, float32, what is added to that: minus the mean over the standard deviation. Both follow from the three
            above, and are what actors are sent.
    """

    count: Tensor
    mean: Tensor
    squares: Tensor
    offset: Tensor
    factor: Tensor

    def __init__(self, size: int, clip: float) -> None:
        super().__init__()
        self.clip = clip
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("squares", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("offset", torch.zeros(size), persistent=False)
        self.register_buffer("factor", torch.ones(size), persistent=False)

    def forward(self, vectors: Tensor) -> Tensor:
        """`[..., D]` of any dtype to float32 `[..., D]`."""
        # Two calls, and no look-up through nn.Module: an actor runs this for each step of a few rows.
        buffers = self._buffers
        scaled = torch.addcmul(buffers["offset"], vectors.float(), buffers["factor"])  # type: ignore[arg-type]
        return scaled.clamp_(-self.clip, self.clip)

    @torch.no_grad()
    def merge(self, count: Tensor, mean: Tensor, squares: Tensor) -> None:
        """Take in more vectors by their moments (Chan et al. 1979). None, or moments that are not finite, change nothing.

        Args:
            count: of the vectors, float64 scalar.
            mean: `[D]`, float64.
            squares: `[D]`, float64, the sum of the squared distances from `mean`.
        """
        total = (self.count + count).clamp(min=1)
        distance = mean - self.mean
        merged_mean = self.mean + distance * (count / total)
        merged_squares = self.squares + squares + distance.square() * (self.count * count / total)
        sound = (count > 0) & merged_mean.isfinite().all() & merged_squares.isfinite().all()
        self.count.copy_(torch.where(sound, self.count + count, self.count))
        self.mean.copy_(torch.where(sound, merged_mean, self.mean))
        self.squares.copy_(torch.where(sound, merged_squares, self.squares))
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Compute offset and factor from the sums; call it after the sums were written from outside."""
        variance = self.squares / self.count.clamp(min=1)
        factor = torch.where(self.constant(), 1.0, (variance + VARIANCE_EPS).rsqrt())
        self.factor.copy_(factor)
        self.offset.copy_(-self.mean * factor)

    def constant(self) -> Tensor:
        """Which of the numbers have never varied, `[D]` bool."""
        return self.squares <= self.count * (self.mean.abs() * RESOLUTION).square()

    def packed(self) -> Tensor:
        """What acting needs, `[3, 2, D]` float32: each is a number of bfloat16, and the three add up to offset and factor.

        Weights travel as bfloat16, whose 8 bits would round an offset of 50 by up to an eighth.
        """
        rest = torch.stack([self.offset, self.factor]).double()
        parts = []
        for _ in range(WIRE_PARTS):
            parts.append(rest.to(torch.bfloat16).double())
            rest = rest - parts[-1]
        return torch.stack(parts).float()

    @torch.no_grad()
    def unpack(self, parts: Tensor) -> None:
        """Take over what `packed` gave; the sums stay as they are."""
        offset, factor = parts.double().sum(0).float()
        self.offset.copy_(offset)
        self.factor.copy_(factor)
