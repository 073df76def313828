"""Whether the mean return has risen since the run began, and whether it has fallen again (no torch)."""

from __future__ import annotations

import math
from dataclasses import dataclass

ENOUGH_EPISODES = 20
"""Fewer episodes have no mean to speak of."""
NOISE = 3.0
"""A change counts beyond this many standard errors of the mean."""
KEPT = 0.8
"""A rise counts as kept while the mean return is above this fraction of its best rise."""


@dataclass
class ReturnTrend:
    """The first, the best and the last mean return of a run.

    Attributes:
        first: the first mean return of enough episodes.
        best: the best one so far.
        last: the newest one.
        first_error: the standard error of the first mean.
        error: the larger of the standard errors of the first and of the newest mean.
    """

    first: float = math.nan
    best: float = math.nan
    last: float = math.nan
    first_error: float = 0.0
    error: float = 0.0

    def update(self, mean: float, std: float, episodes: int) -> None:
        """Take in the mean and the standard deviation of the last episodes' returns, and their number."""
        if episodes < ENOUGH_EPISODES or not math.isfinite(mean):
            return
        error = std / math.sqrt(episodes)
        if math.isnan(self.first):
            self.first, self.best, self.first_error = mean, mean, error
        self.best, self.last = max(self.best, mean), mean
        self.error = max(self.first_error, error)

    @property
    def thrives(self) -> bool:
        """Whether the return is clearly above the first one, and near its best."""
        rise = self.last - self.first
        return rise > NOISE * self.error and rise >= KEPT * (self.best - self.first)

    @property
    def fallen(self) -> bool:
        """Whether the return is clearly below its best."""
        return self.best - self.last > max(NOISE * self.error, (1 - KEPT) * (self.best - self.first))
