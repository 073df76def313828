"""Interquartile mean, probability of improvement and their bootstrap intervals, for a few runs of one task.

The measures are those of Agarwal et al. 2021, "Deep reinforcement learning at the edge of the
statistical precipice" (arXiv:2108.13264), as the library rliable computes them for one task. scipy
does the trimming, resampling and permuting.
"""

from __future__ import annotations

from math import comb
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[Any]

REPETITIONS = 10_000
LEVEL = 0.95
MOST_SPLITS = 50_000
"""The exact test looks at all ways to split the runs if there are at most this many, and else at
this many random ones."""
BATCH = 2_000
"""Resamples that are held in memory at a time."""


class Estimate(NamedTuple):
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float


def interquartile_mean(scores_SN: Array, axis: int = 0) -> Array:
    """The mean of the middle half: a quarter of the runs, rounded down, is left out at each end.

    With fewer than four runs it is the mean.

    Args:
        scores_SN: `[S, ...]`, one row per run.
        axis: of the runs.
    """
    return np.asarray(stats.trim_mean(scores_SN, 0.25, axis=axis))


def improvement(above_S: Array, below_R: Array, axis: int = -1) -> Any:
    """The probability that a run of the first arm beats one of the second, over all pairs; a tie counts half.

    It is the Mann-Whitney U divided by the number of pairs. scipy's function would work out a
    p-value each time, too.

    Args:
        above_S: `[..., S]`, the first arm's scores.
        below_R: `[..., R]`, the second arm's scores.
        axis: of the runs; scipy asks for this name, and the last axis is the only one.
    """
    assert axis == -1, "the runs lie along the last axis"
    difference = np.expand_dims(above_S, -1) - np.expand_dims(below_R, -2)
    return (np.sign(difference).mean((-1, -2)) + 1) / 2


def iqm_with_interval(scores_SN: Array, *, seed: int = 0) -> tuple[Array, Array, Array]:
    """The interquartile mean over the runs, with a percentile-bootstrap interval.

    Args:
        scores_SN: `[S]` or `[S, N]`, one row per run. Whole rows are resampled, so a curve's points
            stay together.
        seed: of the resampling, so that a report is the same each time it is written.

    Returns:
        Value, low and high, each `[]` or `[N]`.
    """
    value = interquartile_mean(scores_SN)
    if len(scores_SN) == 1:  # there is nothing to resample
        return value, value, value
    interval = bootstrap(scores_SN, statistic=interquartile_mean, axis=0, seed=seed)
    return value, interval.low, interval.high


def iqm(scores_S: Array) -> Estimate:
    """The interquartile mean of `[S]` runs."""
    return Estimate(*(float(part) for part in iqm_with_interval(scores_S)))


def improvement_with_interval(above_S: Array, below_R: Array, *, seed: int = 0) -> Estimate:
    """`improvement`, with its interval."""
    return of_two_arms(improvement, above_S, below_R, seed=seed)


def ratio_of_means(above_S: Array, below_R: Array, *, seed: int = 0) -> Estimate:
    """The first arm's mean divided by the second's, with its interval."""

    def ratio(above: Array, below: Array, axis: int = -1) -> Any:
        return above.mean(axis) / below.mean(axis)

    return of_two_arms(ratio, above_S, below_R, seed=seed)


def of_two_arms(statistic: Any, above_S: Array, below_R: Array, *, seed: int) -> Estimate:
    """A statistic of two arms, with an interval for which each arm's runs are resampled separately (a stratified bootstrap)."""
    # scipy resamples no sample of one run; the same run twice has the same resamples.
    samples = [np.repeat(scores, 2) if len(scores) == 1 else scores for scores in (above_S, below_R)]
    interval = bootstrap(*samples, statistic=statistic, axis=-1, seed=seed)
    return Estimate(float(statistic(above_S, below_R)), float(interval.low), float(interval.high))


def bootstrap(*samples: Array, statistic: Any, axis: int, seed: int) -> Any:
    """The percentile interval of a statistic."""
    return stats.bootstrap(
        samples,
        statistic,
        axis=axis,
        n_resamples=REPETITIONS,
        batch=BATCH,
        vectorized=True,
        paired=False,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval


def exact_p(above_S: Array, below_R: Array) -> float:
    """The two-sided p of the probability of improvement, if both arms were the same and runs were assigned at random.

    A bootstrap of three runs knows three values. This test says what so few runs can show at all.
    """
    few, many = sorted((above_S, below_R), key=len)
    if len(few) == 1:
        return one_against(few, many)
    found = stats.permutation_test(
        (above_S, below_R),
        distance,
        permutation_type="independent",
        vectorized=True,
        n_resamples=MOST_SPLITS,
        batch=BATCH,
        alternative="greater",
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


def one_against(single: Array, others: Array) -> float:
    """`exact_p` for an arm of one run, which scipy does not permute: each of the runs could be the single one."""
    scores = np.concatenate([single, others])
    distances = [distance(scores[place : place + 1], np.delete(scores, place)) for place in range(len(scores))]
    return float(np.mean(np.array(distances) >= distances[0] - 1e-12))


def distance(above_S: Array, below_R: Array, axis: int = -1) -> Any:
    """How far the probability of improvement is from 1/2, as a test statistic."""
    return np.abs(improvement(above_S, below_R, axis) - 0.5)


def least_p(count: int, other: int) -> float:
    """The smallest p that `exact_p` can give with so many runs: all of one arm's above all of the other's."""
    return min(1.0, 2 / comb(count + other, count))
