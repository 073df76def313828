"""How long an actor takes from its credit to its block, and what the fleet's pace is. See docs/decisions/023."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

KEPT = 5
"""Blocks of an actor whose times are kept. Their lower median is its pace, so that one slow block does not make it slow."""


class Pace:
    """One actor's times."""

    __slots__ = ("_recent", "_seconds")

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=KEPT)
        self._seconds: float | None = None  # None until it is asked for after a block

    def took(self, seconds: float) -> None:
        """Count a block. Cheap, for it is called for each."""
        self._recent.append(seconds)
        self._seconds = None

    @property
    def seconds(self) -> float | None:
        """What the actor usually takes from credit to block; None until its first block has come."""
        if self._seconds is None and self._recent:
            self._seconds = sorted(self._recent)[(len(self._recent) - 1) // 2]
        return self._seconds


def fleet_seconds(paces: Iterable[Pace]) -> float | None:
    """The pace of the fleet: a quarter of the actors are at least as fast. None until one block has come.

    It is not the median, so that one fast actor among three slow ones does not wait for them; and not the fastest actor's,
    so that a single odd one does not make all others slow.
    """
    known = sorted(seconds for pace in paces if (seconds := pace.seconds) is not None)
    return known[(len(known) - 1) // 4] if known else None
