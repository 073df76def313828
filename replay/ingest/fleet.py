"""Statistics of all actors: recent episodes, steps, ages and policy lags."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from protocol.data.trajectory import Array
from replay.histogram import LAG_BUCKETS, SECONDS_BUCKETS, Histogram

EPISODE_WINDOW = 100
LAG_WINDOW = 4096
"""The number of trajectories over which the percentiles of policy_lag are computed."""


class FleetStatistics:
    """Counters and windows over all actors. An episode or step is counted when its trajectory is stored.

    Args:
        statistics: the names of the environment's own numbers per episode.

    Attributes:
        env_steps: the number of steps in which an agent was present.
        env_steps_trained: the same count, but only of trajectories that were trained on.
        transit: seconds from the end of an unroll to its arrival.
        age: seconds from a trajectory's arrival until it is handed to the learner.
        lag: how many policy versions a trajectory is behind the newest one when it is handed out.
        lag_stored: the same when it is stored.
    """

    def __init__(self, statistics: Sequence[str] = ()) -> None:
        self.statistics = tuple(statistics)
        self._returns: deque[float] = deque(maxlen=EPISODE_WINDOW)
        self._lengths: deque[int] = deque(maxlen=EPISODE_WINDOW)
        self._rows: deque[Array] = deque(maxlen=EPISODE_WINDOW)  # [X] each
        self._lags: deque[tuple[int, int]] = deque()  # (lag, number of trajectories), recently handed out
        self._lag_counts: Counter[int] = Counter()  # the same trajectories, by lag
        self.episodes = 0
        self.return_sum = self.length_sum = 0.0
        self.env_steps = self.env_steps_trained = 0
        self.transit = Histogram(SECONDS_BUCKETS)
        self.age = Histogram(SECONDS_BUCKETS)
        self.lag = Histogram(LAG_BUCKETS)
        self.lag_stored = Histogram(LAG_BUCKETS)

    def stored(self, arrays: dict[str, Array], transit_s: float, lag: int) -> None:
        """Count a block.

        Args:
            arrays: its fields by name.
            transit_s: seconds since its unroll ended; may be negative if two hosts' clocks differ.
            lag: how many policy versions the block is behind the newest one.
        """
        self.lag_stored.observe(lag, len(arrays["valid"]))
        self.env_steps += int(np.count_nonzero(arrays["valid"]))
        self.transit.observe(max(0.0, transit_s), len(arrays["valid"]))
        returns = arrays["episode_return"]
        if not len(returns):
            return
        lengths = arrays["episode_length"]
        self.episodes += len(returns)
        self.return_sum += float(returns.sum(dtype=np.float64))
        self.length_sum += float(lengths.sum(dtype=np.int64))
        newest = slice(-EPISODE_WINDOW, None)
        self._returns.extend(returns[newest].tolist())
        self._lengths.extend(lengths[newest].tolist())
        self._rows.extend(np.array(arrays["episode_statistics"][newest]))

    def handed_out(self, rows: Iterable[tuple[int, int, float]]) -> None:
        """Count trajectories that were handed to the learner.

        Args:
            rows: (number of trajectories, policy lag in versions, age in seconds) of each piece.
        """
        for count, lag, age_s in rows:
            self.lag.observe(lag, count)
            self.age.observe(age_s, count)
            self._lags.append((lag, count))
            self._lag_counts[lag] += count
        while self._lags and self._lag_counts.total() - self._lags[0][1] >= LAG_WINDOW:
            lag, count = self._lags.popleft()
            self._lag_counts[lag] -= count
            if not self._lag_counts[lag]:
                del self._lag_counts[lag]

    @property
    def episode_return(self) -> dict[str, Any]:
        """Mean, standard deviation and number of the returns in the window; None, None, 0 if there are none."""
        if not self._returns:
            return {"mean": None, "std": None, "n": 0}
        values = np.asarray(self._returns)
        return {"mean": float(values.mean()), "std": float(values.std()), "n": len(values)}

    def summary(self) -> dict[str, Any]:
        """Return the statistics that the learner and `oatmill status` report."""
        return {
            "episode_return": self.episode_return,
            "episode_length": float(np.mean(self._lengths)) if self._lengths else None,
            "episodes": self.episodes,
            "env_steps": self.env_steps,
            "env_steps_trained": self.env_steps_trained,
            "statistics": self.statistic_means(),
            "policy_lag": {"p50": self.lag_percentile(0.5), "p99": self.lag_percentile(0.99)},
        }

    def statistic_means(self) -> dict[str, float]:
        """The mean of each of the environment's own numbers, over the episodes of the window that have this number.

        Numbers that no episode has are left out.
        """
        rows = np.stack(self._rows).astype(np.float64) if self._rows else np.empty((0, len(self.statistics)))
        heard = ~np.isnan(rows)
        sums, counts = np.where(heard, rows, 0.0).sum(0), heard.sum(0)
        return {name: float(total / count) for name, total, count in zip(self.statistics, sums, counts, strict=True) if count}

    def lag_percentile(self, fraction: float) -> int | None:
        """Return the smallest lag that this fraction of the recent trajectories does not exceed."""
        seen = 0
        for lag, count in sorted(self._lag_counts.items()):
            seen += count
            if count and seen >= fraction * self._lag_counts.total():
                return lag
        return None

    def quantiles(self) -> dict[str, Any]:
        """Return the window's quantiles, and sums and counts over all episodes, for Prometheus summaries."""
        return {
            "episode_return": _quantiles(self._returns, self.return_sum, self.episodes),
            "episode_length": _quantiles(self._lengths, self.length_sum, self.episodes),
        }


def _quantiles(window: Iterable[float], total: float, count: int) -> dict[str, Any]:
    values = list(window)
    points = (0.0, 0.5, 1.0)
    found = np.quantile(values, points).tolist() if values else [None] * len(points)
    return {"quantiles": dict(zip(map(str, points), found, strict=True)), "sum": total, "count": count}
