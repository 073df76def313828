"""The running scale of advantages: Adam's bias correction, not centred, and unmoved by a bad batch."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from learner.advantage_scale import AdvantageScale
from learner.ranks.reduce import OneRank

EVERYWHERE = torch.ones(1, 2, dtype=torch.bool)


def make(decay: float = 0.99, eps: float = 0.0) -> AdvantageScale:
    return AdvantageScale(decay, eps, OneRank())


def test_after_one_batch_sigma_is_the_root_of_its_mean_square_not_centred() -> None:
    # Errors 3 and 5: mean square (9 + 25) / 2 = 17; centred it would be 1. Without bias correction it would be 0.17.
    assert make().update(torch.tensor([[3.0, 5.0]]), EVERYWHERE).item() == pytest.approx(sqrt(17), rel=1e-6)


def test_squares_beyond_float32_still_have_a_root() -> None:
    sigma = make().update(torch.tensor([[1e20, 1e20]]), EVERYWHERE)
    assert sigma.dtype == torch.float32
    assert sigma.item() == pytest.approx(1e20)


def test_after_two_batches_the_later_one_weighs_more_by_the_decay() -> None:
    # decay 0.5: moments 4 then 16. m = 0.5 * (0.5 * 4) + 0.5 * 16 = 9; weights sum to 0.75; sigma^2 = 12.
    scale = make(0.5)
    scale.update(torch.tensor([[2.0, 2.0]]), EVERYWHERE)
    assert scale.update(torch.tensor([[4.0, 4.0]]), EVERYWHERE).item() == pytest.approx(sqrt(12), rel=1e-6)


def test_eps_keeps_sigma_above_0_where_every_error_is_0() -> None:
    assert make(eps=1e-12).update(torch.zeros(1, 2), EVERYWHERE).item() == pytest.approx(1e-6, rel=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=4), min_size=1, max_size=6), st.floats(0, 0.999))
def test_sigma_is_the_weighted_mean_of_all_batches_written_out(batches: list[list[float]], decay: float) -> None:
    scale, sigma = make(decay, eps=1e-12), torch.zeros(())
    for errors in batches:
        sigma = scale.update(torch.tensor([errors], dtype=torch.float64), torch.ones(1, len(errors), dtype=torch.bool))
    age = np.arange(len(batches))[::-1]
    weights = decay**age * (1 - decay)
    moments = np.array([np.mean(np.square(errors)) for errors in batches])
    assert sigma.item() == pytest.approx(sqrt((weights * moments).sum() / weights.sum() + 1e-12), rel=1e-5, abs=1e-12)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e9])
def test_steps_that_do_not_count_are_not_read(poison: float) -> None:
    mask = torch.tensor([[True, False]])
    assert make().update(torch.tensor([[3.0, poison]]), mask).item() == pytest.approx(3.0, rel=1e-6)


@pytest.mark.parametrize(
    ("error", "mask"),
    [
        (torch.tensor([[float("nan"), 1.0]]), EVERYWHERE),
        (torch.tensor([[float("inf"), 1.0]]), EVERYWHERE),
        (torch.ones(1, 2), ~EVERYWHERE),
    ],
    ids=["nan", "infinite", "empty"],
)
def test_a_bad_or_empty_batch_moves_nothing(error: Tensor, mask: Tensor) -> None:
    scale = make()
    before = scale.update(torch.tensor([[3.0, 5.0]]), EVERYWHERE)
    state = scale.state()
    assert torch.equal(scale.update(error, mask), before)
    assert scale.state() == state


def test_a_bad_first_batch_leaves_a_finite_sigma() -> None:
    assert torch.isfinite(make(eps=1e-12).update(torch.tensor([[float("nan"), 1.0]]), EVERYWHERE))


def test_the_state_goes_through_a_checkpoint_unchanged() -> None:
    first, second = make(), make()
    first.update(torch.tensor([[3.0, 0.1]]), EVERYWHERE)
    second.load(first.state())
    assert second.state() == first.state()
    after = [scale.update(torch.tensor([[2.0, 7.0]]), EVERYWHERE) for scale in (first, second)]
    assert torch.equal(*after)


def test_two_ranks_with_uneven_counts_have_the_sigma_of_one() -> None:
    # Rank 0 has errors 1, 1, 1 and rank 1 has 5: mean square (3 + 25) / 4 = 7, not the mean of 1 and 25.
    class Other:
        world_size = 2

        def sum(self, values: Tensor) -> Tensor:
            return values + torch.tensor([25.0, 1.0], dtype=torch.float64)

    scale = AdvantageScale(0.99, 0.0, Other())
    sigma = scale.update(torch.ones(1, 3), torch.ones(1, 3, dtype=torch.bool))
    assert sigma.item() == pytest.approx(sqrt(7), rel=1e-6)
