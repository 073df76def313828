"""Interquartile mean, probability of improvement and their bootstrap intervals, for a few runs of one task.

The measures of Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice" (arXiv:2108.13264),
as its library rliable computes them for one task; written out here because rliable 1.2 needs an `arch` that does not load
beside today's pandas. The tests hold rliable's own values.
"""

from __future__ import annotations

from itertools import combinations
from math import comb
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

REPETITIONS = 10_000
LEVEL = 0.95
MOST_SPLITS = 50_000
"""Up to so many ways to deal the runs out the exact test looks at all of them, and at so many drawn ones beyond."""


class Estimate(NamedTuple):
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float


def interquartile_mean(scores_SN: Array) -> Array:
    """The mean of the middle half along axis 0: a quarter of the runs, rounded down, is cut at each end.

    With fewer than four runs nothing is cut, and it is the mean.

    Args:
        scores_SN: `[S, ...]`, a row a run.
    """
    cut = len(scores_SN) // 4
    kept: Array = np.sort(scores_SN, 0)[cut : len(scores_SN) - cut].mean(0)
    return kept


def improvement(above_S: Array, below_R: Array) -> float:
    """P(a run of the first arm beats one of the second): over all pairs, a tie counts half."""
    difference = above_S[:, None] - below_R[None, :]
    return float((np.sign(difference) + 1).mean() / 2)


def iqm_with_interval(scores_SN: Array, *, seed: int = 0) -> tuple[Array, Array, Array]:
    """The interquartile mean along axis 0 with a percentile-bootstrap interval.

    Args:
        scores_SN: `[S]` or `[S, N]`, a row a run.
        seed: of the resampling, so that a report is the same each time it is written.

    Returns:
        Value, low and high, each `[]` or `[N]`.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(scores_SN), size=(len(scores_SN), REPETITIONS))
    # Resampled run by run, so that a curve's points stay together.
    means = interquartile_mean(scores_SN[drawn])
    low, high = np.percentile(means, [50 * (1 - LEVEL), 50 * (1 + LEVEL)], axis=0)
    return interquartile_mean(scores_SN), low, high


def iqm(scores_S: Array) -> Estimate:
    """The interquartile mean of `[S]` runs."""
    return Estimate(*(float(part) for part in iqm_with_interval(scores_S)))


def improvement_with_interval(above_S: Array, below_R: Array, *, seed: int = 0) -> Estimate:
    """`improvement`, each arm's runs resampled by themselves (a stratified bootstrap)."""
    rng = np.random.default_rng(seed)
    drawn = [rng.integers(len(scores), size=(REPETITIONS, len(scores))) for scores in (above_S, below_R)]
    difference = above_S[drawn[0]][:, :, None] - below_R[drawn[1]][:, None, :]
    resampled = (np.sign(difference) + 1).mean((1, 2)) / 2
    low, high = np.percentile(resampled, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return Estimate(improvement(above_S, below_R), float(low), float(high))


def exact_p(above_S: Array, below_R: Array) -> float:
    """Two-sided p of the probability of improvement, if both arms' runs were of one kind and dealt out at random.

    A bootstrap of three runs knows three values; this says what so few runs can show at all.
    """
    scores = np.concatenate([above_S, below_R])
    count, total = len(above_S), len(scores)
    observed = abs(improvement(above_S, below_R) - 0.5)
    splits: Any
    if comb(total, count) <= MOST_SPLITS:
        splits = combinations(range(total), count)
    else:
        rng = np.random.default_rng(0)
        splits = (rng.permutation(total)[:count] for _ in range(MOST_SPLITS))
    # beats[i, j]: 1 if run i is above run j, 1/2 for a tie; a split's statistic is a mean over some of its entries.
    beats = (np.sign(scores[:, None] - scores[None, :]) + 1) / 2
    hits = looked_at = 0
    for split in splits:
        first = np.zeros(total, np.bool_)
        first[list(split)] = True
        hits += abs(beats[first][:, ~first].mean() - 0.5) >= observed - 1e-12
        looked_at += 1
    return hits / looked_at


def least_p(count: int, other: int) -> float:
    """The smallest p that `exact_p` can give with so many runs: all of one arm's above all of the other's."""
    return min(1.0, 2 / comb(count + other, count))
