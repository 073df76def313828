"""Measures how long actors take from credit to block, and the pace of the fleet. See docs/decisions/023."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

KEPT = 5
"""The number of blocks per actor whose times are kept. Their lower median is the actor's pace, so
that one slow block does not make it slow."""


class Pace:
    """The recent times of one actor."""

    __slots__ = ("_recent", "_seconds")

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=KEPT)
        self._seconds: float | None = None  # computed when it is needed

    def took(self, seconds: float) -> None:
        """Add the time of a block. This is cheap, because it is called for each block."""
        self._recent.append(seconds)
        self._seconds = None

    @property
    def seconds(self) -> float | None:
        """The actor's usual time from credit to block; None before its first block."""
        if self._seconds is None and self._recent:
            self._seconds = sorted(self._recent)[(len(self._recent) - 1) // 2]
        return self._seconds


def fleet_seconds(paces: Iterable[Pace]) -> float | None:
    """Return the pace of the fleet: a quarter of the actors are at least as fast.

    None before the first block.

    It is not the median, so that one fast actor among three slow ones does not wait for them. It is
    not the fastest actor's pace, so that a single unusual actor does not make all others slow.
    """
    known = sorted(seconds for pace in paces if (seconds := pace.seconds) is not None)
    return known[(len(known) - 1) // 4] if known else None
