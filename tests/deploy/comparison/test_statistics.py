"""The comparison's statistics against values worked out by hand and against rliable's."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from deploy.comparison.statistics import exact_p, improvement, improvement_with_interval, interquartile_mean, iqm, least_p

A = np.array([480.0, 500.0, 455.0, 470.0, 499.5])
B = np.array([430.0, 500.0, 410.0, 465.0, 390.0])


def test_the_interquartile_mean_cuts_a_quarter_at_each_end() -> None:
    # Eight runs: two are cut at each end, (3 + 4 + 5 + 6) / 4; a run that exploded does not count.
    assert interquartile_mean(np.array([1, 2, 3, 4, 5, 6, 7, -1e9])) == (2 + 3 + 4 + 5) / 4
    # Three runs: a quarter of them is less than one, so nothing is cut.
    assert interquartile_mean(np.array([1.0, 2.0, 6.0])) == 3


def test_it_is_what_rliable_gives() -> None:
    # rliable 1.2.0 (its get_interval_estimates with aggregate_iqm, 50,000 repetitions, and probability_of_improvement, 20,000;
    # beside pandas 2 and with arch's new name for the seed, since neither loads as published).
    assert iqm(A) == pytest.approx((483.1666667, 460.0, 499.8333333))
    assert iqm(B) == pytest.approx((435.0, 396.6666667, 488.3333333))
    assert improvement_with_interval(A, B) == pytest.approx((0.78, 0.4, 1.0))


def test_the_probability_of_improvement_counts_pairs_and_half_of_each_tie() -> None:
    # Pairs of (1, 3) and (1, 2): 1-1 ties, 1-2 loses, 3-1 and 3-2 win: (1/2 + 0 + 1 + 1) / 4.
    assert improvement(np.array([1.0, 3.0]), np.array([1.0, 2.0])) == 0.625


def test_runs_that_are_all_alike_have_no_interval() -> None:
    same = np.full(3, 500.0)
    assert iqm(same) == (500, 500, 500)
    assert improvement_with_interval(same, same) == (0.5, 0.5, 0.5)
    assert exact_p(same, same) == 1


@pytest.mark.parametrize(("runs", "p"), [(2, 1 / 3), (3, 0.1), (4, 2 / 70), (5, 2 / 252)])
def test_the_clearest_outcome_has_the_least_p(runs: int, p: float) -> None:
    # All of one arm above all of the other is one of C(2n, n) ways to deal the runs out, and so is the reverse.
    above, below = np.arange(runs) + 100.0, np.arange(runs, dtype=float)
    assert exact_p(above, below) == pytest.approx(p)
    assert exact_p(below, above) == pytest.approx(p)
    assert least_p(runs, runs) == pytest.approx(p)


def test_the_exact_p_by_counting() -> None:
    # (1, 4) and (2, 3): 1/2 of the pairs are won, as many as can be lost: every split is at least as extreme.
    assert exact_p(np.array([1.0, 4.0]), np.array([2.0, 3.0])) == 1
    # One run against three, above them all: so is one of four splits, and one has it below them all.
    assert exact_p(np.array([9.0]), np.array([1.0, 2.0, 3.0])) == 0.5


def test_many_runs_are_drawn_instead_of_counted() -> None:
    rng = np.random.default_rng(1)
    same = exact_p(rng.normal(size=12), rng.normal(size=12))
    apart = exact_p(rng.normal(size=12) + 5, rng.normal(size=12))
    assert same > 0.05
    assert apart < 0.001


def test_values_are_those_of_the_code_before_scipy() -> None:
    # Ties, one run against several, and two against two: what the former loops over splits and resamples gave.
    tied, others = np.array([3.0, 0, 0, 3, 1, 2]), np.array([1.0, 1, 0, 2, 0])
    assert improvement(tied, others) == pytest.approx(stats.mannwhitneyu(tied, others).statistic / 30)
    assert exact_p(A, B) == pytest.approx(0.15873015873015872)
    assert exact_p(A[:1], B[:3]) == 1
    assert improvement_with_interval(A[:1], B[:3]) == pytest.approx((2 / 3, 0, 1))
    assert improvement_with_interval(A[:2], B[:2]) == pytest.approx((0.625, 0, 1))
    assert iqm(A[:1]) == (480, 480, 480)


def test_the_command_line_starts_without_scipy() -> None:
    code = "import sys, deploy.cli; sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
