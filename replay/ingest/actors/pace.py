"""Measures how long actors take from credit to block, and the pace of the fleet. See docs/decisions/023."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

KEPT = 5
"""The times of this many blocks are kept per actor. Their lower median is the actor's pace, so that a
single slow block does not make the actor slow."""


class Pace:
    """The recent times of one actor."""

    __slots__ = ("_recent", "_seconds")

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=KEPT)
        self._seconds: float | None = None  # computed when it is needed

    def took(self, seconds: float) -> None:
        """Add the time of a block. This must be cheap, because it is called for each block."""
        self._recent.append(seconds)
        self._seconds = None

    @property
    def seconds(self) -> float | None:
        """The actor's usual time from credit to block; None before its first block."""
        if self._seconds is None and self._recent:
            self._seconds = sorted(self._recent)[(len(self._recent) - 1) // 2]
        return self._seconds


def fleet_seconds(paces: Iterable[Pace]) -> float | None:
    """Return the pace of the fleet, the lower quartile of the actors' times; None before the first block.

    The median would make one fast actor wait for three slow ones. The minimum would let a single very fast
    actor make all others count as slow.
    """
    known = sorted(seconds for pace in paces if (seconds := pace.seconds) is not None)
    return known[(len(known) - 1) // 4] if known else None
