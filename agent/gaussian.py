"""Diagonal Gaussians over the numbers of an action, as rows of means and logarithms of standard deviations.

Numbers are as they were drawn, before they are squashed into -1..1: their log-probabilities are exact then, and ratios and KLs
are those of the squashed numbers too, because squashing multiplies every density alike. Only the entropy changes.
"""

from __future__ import annotations

from math import log, pi, sqrt

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from protocol.data.trajectory import Array

HALF_LOG_TAU = 0.5 * log(2 * pi)
HALF_LOG_TAU_E = 0.5 * log(2 * pi) + 0.5
NODES = 32
"""Points at which the entropy of a squashed Gaussian is evaluated."""


def parts(rows_P: Tensor) -> tuple[Tensor, Tensor]:
    """Means and log stds, each `[..., D]`, of rows `[..., 2 D]`."""
    mean_D, log_std_D = rows_P.chunk(2, -1)
    return mean_D, log_std_D


def log_probs(rows_P: Tensor, numbers_D: Tensor) -> Tensor:
    """The log-density of each number, `[..., D]`, in nats."""
    mean_D, log_std_D = parts(rows_P)
    z_D = (numbers_D - mean_D) * (-log_std_D).exp()
    return -0.5 * z_D.square() - log_std_D - HALF_LOG_TAU


def entropies(rows_P: Tensor) -> Tensor:
    """The entropy of each number before it is squashed, `[..., D]`, in nats."""
    return parts(rows_P)[1] + HALF_LOG_TAU_E


def squashed_entropies(rows_P: Tensor) -> Tensor:
    """The entropy of the tanh of each number, `[..., D]`, in nats.

    It is the Gaussian's and the mean of log(1 - tanh(x)^2), which has no closed form: that is one integral a dimension, by
    Gauss-Hermite quadrature. It costs no noise, and its gradient is exact.
    """
    mean_D, log_std_D = parts(rows_P)
    points, weights = (torch.tensor(values, dtype=rows_P.dtype, device=rows_P.device) for values in hermite())
    x_DQ = mean_D.unsqueeze(-1) + log_std_D.exp().unsqueeze(-1) * points
    return log_std_D + HALF_LOG_TAU_E + (log_slope(x_DQ) * weights).sum(-1)


def log_slope(x: Tensor) -> Tensor:
    """log(1 - tanh(x)^2), without the cancellation of its two terms where |x| is large."""
    return 2 * (log(2) - x - softplus(-2 * x))


def hermite() -> tuple[Array, Array]:
    """Points and weights that average a function over a standard normal distribution."""
    points, weights = np.polynomial.hermite_e.hermegauss(NODES)
    return points, weights / sqrt(2 * pi)


def kls(from_P: Tensor, to_P: Tensor) -> Tensor:
    """KL(from || to) of each number, `[..., D]`, in nats, in closed form."""
    from_mean_D, from_log_std_D = parts(from_P)
    mean_D, log_std_D = parts(to_P)
    difference_D = from_log_std_D - log_std_D
    z_D = (from_mean_D - mean_D) * (-log_std_D).exp()
    return 0.5 * ((2 * difference_D).exp() + z_D.square() - 1) - difference_D


def sample(rows_P: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw each number: `[..., D]`, float32."""
    mean_D, log_std_D = parts(rows_P)
    noise_D = torch.empty_like(mean_D).normal_(generator=generator)
    return mean_D + log_std_D.exp() * noise_D
