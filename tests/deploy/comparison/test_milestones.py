"""Env steps and seconds to returns on the way, by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import pytest

from deploy.comparison.milestones import milestones, taken_to
from deploy.comparison.results import ArmResult, Curve
from deploy.comparison.statistics import Array, ratio_of_means


class Runs:
    """What milestones read of an arm."""

    def __init__(self, runs: Array, seconds_a_step: Sequence[float]) -> None:
        grid = np.arange(runs.shape[1]) * 100.0
        self.curve = Curve(grid, np.outer(seconds_a_step, grid), runs, runs.mean(0), runs.mean(0), runs.mean(0))


def arm(*runs: list[float], seconds_a_step: Sequence[float] = ()) -> ArmResult:
    return cast(ArmResult, Runs(np.array(runs, float), seconds_a_step or [0.01] * len(runs)))


def test_a_return_between_two_reports_is_interpolated() -> None:
    # Rises from 0 to 10 between 0 and 100 env steps: 2.5 after 25. The second run never gets there, the third starts there.
    curve = arm([0, 10, 20], [0, 1, 2], [5, 0, 5], seconds_a_step=[0.02, 0.01, 0.01]).curve
    steps = taken_to(2.5, curve, "env_steps")
    assert steps[[0, 2]].tolist() == [25, 0]
    assert np.isnan(steps[1])
    assert taken_to(2.5, curve, "seconds")[[0, 2]].tolist() == [0.5, 0]


def test_an_arm_that_learns_twice_as_fast_has_half_the_steps() -> None:
    reference = arm(*[[0.0, 5, 10, 15, 20]] * 4)
    fast = arm(*[[0.0, 10, 20, 20, 20]] * 4)
    found = milestones(fast, reference, "env_steps")
    assert [milestone.goal for milestone in found] == [5, 10, 15, 18]
    assert [milestone.taken.mean() for milestone in found] == [50, 100, 150, 180]
    for milestone in found:
        assert milestone.ratio is not None
        assert tuple(milestone.ratio) == pytest.approx((0.5, 0.5, 0.5))
        assert milestone.p == pytest.approx(2 / 70)  # all four below all four: 2 of 70 splits
    own = milestones(reference, reference, "env_steps")
    assert [milestone.taken.mean() for milestone in own] == [100, 200, 300, 360]
    assert all(milestone.ratio is None for milestone in own)


def test_half_the_steps_at_three_times_the_seconds_each_take_longer() -> None:
    reference = arm(*[[0.0, 5, 10, 15, 20]] * 2)
    slow = arm(*[[0.0, 10, 20, 20, 20]] * 2, seconds_a_step=[0.02, 0.04])
    found = milestones(slow, reference, "seconds")
    assert [milestone.taken.tolist() for milestone in found] == [[1, 2], [2, 4], [3, 6], pytest.approx([3.6, 7.2])]
    assert [milestone.ratio.value for milestone in found if milestone.ratio] == pytest.approx([1.5] * 4)


def test_a_run_that_does_not_get_there_is_counted_and_no_ratio_is_given() -> None:
    reference, other = arm([0, 10, 20], [0, 10, 20]), arm([0, 10, 20], [0, 10, 11])
    found = milestones(other, reference, "env_steps")
    assert [milestone.reached for milestone in found] == [2, 2, 1, 1]
    assert [milestone.ratio is None for milestone in found] == [False, False, True, True]


def test_a_reference_that_does_not_learn_has_no_milestones() -> None:
    assert milestones(arm([0, 10, 20]), arm([5, 4, 3]), "env_steps") == []


def test_the_interval_covers_what_resampling_gives() -> None:
    estimate = ratio_of_means(np.array([50.0, 100.0]), np.array([200.0, 200.0]))
    assert tuple(estimate) == pytest.approx((0.375, 0.25, 0.5))
    assert tuple(ratio_of_means(np.array([50.0]), np.array([200.0]))) == pytest.approx((0.25, 0.25, 0.25))
