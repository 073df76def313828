"""Computes the returns and lengths of episodes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from actors.environments.base import Episode
from protocol.data.trajectory import Array


class EpisodeSums:
    """The running return and length of each row's episode.

    Args:
        rows: the number of rows.
    """

    def __init__(self, rows: int) -> None:
        self._returns = np.zeros(rows, np.float64)
        self._lengths = np.zeros(rows, np.int64)

    def clear(self) -> None:
        """Start a new episode in every row."""
        self._returns[:] = 0
        self._lengths[:] = 0

    def add(self, rewards: Array, valid: Array) -> None:
        """Add one step of all rows.

        Args:
            rewards: `[rows]`, 0 if not valid.
            valid: bool `[rows]`, whether the step belongs to the row's episode.
        """
        self._returns += rewards
        self._lengths += valid

    def end(self, ended: Array, statistics: Callable[[int], tuple[float, ...]] = lambda _row: ()) -> list[Episode]:
        """Return the episodes of the rows that ended, and start new ones.

        Args:
            ended: bool `[rows]`.
            statistics: returns the environment's own numbers for the episode of a row.
        """
        rows = np.flatnonzero(ended)
        episodes = [
            Episode(float(self._returns[row]), int(self._lengths[row]), statistics(row), copy=row) for row in rows.tolist()
        ]
        self._returns[rows] = 0
        self._lengths[rows] = 0
        return episodes
