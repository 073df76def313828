"""Histograms whose counts are sent between processes as plain values."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import numpy as np

LAG_BUCKETS = (0.5, 1.5, 2.5, 4.5, 8.5, 16.5, 32.5, 64.5, 128.5, 256.5)
"""Between whole numbers, so that a quantile that Prometheus interpolates is near the number of versions."""


SECONDS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Histogram:
    """Counts by upper bound, as in Prometheus.

    Args:
        bounds: increasing upper bounds; a last bucket without a bound is added.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: bounds, cumulative counts (the last one is the total) and the sum."""
        return {"bounds": self.bounds, "cumulative": np.cumsum(self.counts).tolist(), "sum": self.total}
