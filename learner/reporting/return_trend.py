"""Whether the mean return has risen since the run began, and whether it has fallen again or cannot rise (no torch)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

ENOUGH_EPISODES = 20
"""Fewer episodes have no mean to speak of."""
NOISE = 3.0
"""A change counts beyond this many standard errors of the mean."""
KEPT = 0.8
"""A rise counts as kept while the mean return is above this fraction of its best rise."""
LEVEL = 10
"""Whether the return has fallen is judged by its mean over this many reports: where rewards are rare, all episodes that fail
end together at the time limit, and one report may have nothing else."""

BALANCED = 0.01
"""The return cannot rise where it varies by less than this fraction of the differences between the agents of one episode."""


@dataclass
class ReturnTrend:
    """The first, the best and the last mean return of a run.

    Attributes:
        first: the first mean return of enough episodes.
        best: the best one so far.
        last: the newest one.
        first_error: the standard error of the first mean.
        best_error: that of the best one. A rare reward makes a lucky mean high and uncertain.
        error: the larger of the standard errors of the first and of the newest mean.
        varied: the largest standard deviation so far, or the largest distance of a mean from the first one.
        spread: the largest standard deviation so far over the agents of an episode.
        recent: the last `LEVEL` mean returns.
        best_level: the best mean of `LEVEL` mean returns in a row.
    """

    first: float = math.nan
    best: float = math.nan
    last: float = math.nan
    first_error: float = 0.0
    best_error: float = 0.0
    error: float = 0.0
    varied: float = 0.0
    spread: float = 0.0
    recent: list[float] = field(default_factory=list)
    best_level: float = math.nan

    def update(self, mean: float, std: float, episodes: int, spread: float = 0.0) -> None:
        """Take in the mean and the standard deviation of the last episodes' returns.

        Args:
            mean: their mean; each is the mean over the episode's agents.
            std: their standard deviation.
            episodes: their number.
            spread: the mean standard deviation over the agents of an episode; 0 with one agent, or if it is unknown.
        """
        if episodes < ENOUGH_EPISODES or not math.isfinite(mean):
            return
        error = std / math.sqrt(episodes)
        if math.isnan(self.first):
            self.first, self.first_error = mean, error
        if not mean <= self.best:
            self.best, self.best_error = mean, error
        self.last = mean
        self.recent = [*self.recent, mean][-LEVEL:]
        if len(self.recent) == LEVEL and not self.level <= self.best_level:
            self.best_level = self.level
        self.error = max(self.first_error, error)
        self.varied, self.spread = max(self.varied, std, abs(mean - self.first)), max(self.spread, spread)

    @property
    def level(self) -> float:
        """The mean of the last mean returns."""
        return sum(self.recent) / max(len(self.recent), 1)

    @property
    def thrives(self) -> bool:
        """Whether the return is clearly above the first one, and near its best."""
        rise = self.last - self.first
        return rise > NOISE * self.error and rise >= KEPT * (self.best - self.first)

    @property
    def balanced(self) -> bool:
        """Whether one agent wins what another one loses, as in self-play: the mean over the agents says nothing."""
        return self.varied < BALANCED * self.spread

    @property
    def fallen(self) -> bool:
        """Whether the mean of the last `LEVEL` returns is clearly below its best."""
        error = max(self.error, self.best_error)
        return self.best_level - self.level > max(NOISE * error, (1 - KEPT) * (self.best_level - self.first))
