"""Gaussians against torch.distributions, numerical integrals in float64, and their own definitions."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.distributions.transforms import TanhTransform

from agent import gaussian
from protocol.data.trajectory import Array

ROWS = torch.randn(5, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
OTHERS = torch.randn(5, 4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
NUMBERS = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def normals(rows: torch.Tensor) -> Normal:
    return Normal(rows[..., :3], rows[..., 3:].exp())


def test_log_probabilities_are_those_of_torch() -> None:
    torch.testing.assert_close(gaussian.log_probs(ROWS, NUMBERS), normals(ROWS).log_prob(NUMBERS))  # type: ignore[no-untyped-call]


def test_entropies_are_those_of_torch() -> None:
    torch.testing.assert_close(gaussian.entropies(ROWS), normals(ROWS).entropy())  # type: ignore[no-untyped-call]


def test_divergences_are_those_of_torch_in_the_same_order() -> None:
    torch.testing.assert_close(gaussian.kls(ROWS, OTHERS), kl_divergence(normals(ROWS), normals(OTHERS)))
    assert (gaussian.kls(ROWS, ROWS) == 0).all()


def test_a_divergence_by_hand() -> None:
    # KL(N(1, 1) || N(0, e^2)) = log e + (1 + 1) / (2 e^2) - 1/2 = 0.5 + e^-2.
    one, other = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert gaussian.kls(one, other).item() == pytest.approx(0.5 + np.exp(-2))


def squashed_entropy(mean: float, std: float) -> float:
    """-integral of p log p of y = tanh(x) over a fine grid of x: p(y) = N(x) / (1 - tanh(x)^2), dy = (1 - tanh(x)^2) dx."""
    x: Array = np.linspace(mean - 12 * std, mean + 12 * std, 400_001)
    density = np.exp(-0.5 * ((x - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi))
    log_density = -0.5 * ((x - mean) / std) ** 2 - np.log(std * np.sqrt(2 * np.pi))
    log_slope = 2 * (np.log(2) - np.logaddexp(x, -x))
    return float(-np.trapezoid(density * (log_density - log_slope), x))


@pytest.mark.parametrize("mean", [-3.0, 0.0, 0.5, 8.0])
@pytest.mark.parametrize(
    ("log_std", "within"), [(-5.0, 1e-6), (-2.0, 1e-6), (-0.5, 1e-6), (0.0, 1e-4), (1.0, 1e-2), (2.0, 0.1)]
)
def test_the_entropy_of_a_squashed_number_is_the_integral_over_its_density(mean: float, log_std: float, within: float) -> None:
    # The slope has a bend of width 1: where the Gaussian is much wider, 32 points see less of it.
    found = gaussian.squashed_entropies(torch.tensor([mean, log_std], dtype=torch.float64))
    assert found.item() == pytest.approx(squashed_entropy(mean, np.exp(log_std)), abs=within)


def test_a_squashed_number_has_no_more_entropy_than_an_even_one() -> None:
    grid = torch.cartesian_prod(torch.linspace(-2, 2, 9), torch.linspace(-5, 2, 29))
    assert gaussian.squashed_entropies(grid).max() < log(2) + 0.03  # the last 0.03 is the quadrature's


def test_the_gradient_of_a_squashed_entropy_is_that_of_the_integral() -> None:
    row = torch.tensor([0.7, -0.3], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(gaussian.squashed_entropies(row).sum(), row)
    h = 1e-4
    by_mean = (squashed_entropy(0.7 + h, np.exp(-0.3)) - squashed_entropy(0.7 - h, np.exp(-0.3))) / (2 * h)
    by_log_std = (squashed_entropy(0.7, np.exp(-0.3 + h)) - squashed_entropy(0.7, np.exp(-0.3 - h))) / (2 * h)
    assert gradient.tolist() == pytest.approx([by_mean, by_log_std], abs=1e-5)


def test_the_slope_of_tanh_does_not_vanish_where_it_is_tiny() -> None:
    x = torch.tensor([-30.0, -1.0, 0.0, 2.0, 30.0])
    expected = TanhTransform().log_abs_det_jacobian(x, torch.tanh(x))  # type: ignore[no-untyped-call]
    torch.testing.assert_close(gaussian.log_slope(x), expected)
    assert gaussian.log_slope(torch.tensor([30.0])).item() == pytest.approx(2 * log(2) - 60)


def test_draws_have_the_mean_and_the_deviation_of_their_row() -> None:
    # Three standard errors of 40,000 draws: 3 * 0.5 / 200 = 0.0075 of the mean, 3 / sqrt(2 * 40000) = 1.1 % of the deviation.
    rows = torch.tensor([2.0, log(0.5)]).expand(40_000, 2)
    drawn = gaussian.sample(rows, torch.Generator().manual_seed(0))
    assert drawn.shape == (40_000, 1)
    assert drawn.mean().item() == pytest.approx(2.0, abs=0.0075)
    assert drawn.std().item() == pytest.approx(0.5, rel=0.011)
