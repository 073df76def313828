"""How long an actor takes from its credit to its block, and what the fleet's pace is. See docs/decisions/023."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

KEPT = 5
"""Blocks of an actor whose times are kept. Their lower median is its pace, so that one slow block does not make it slow."""


class Pace:
    """One actor's times.

    Attributes:
        seconds: what it usually takes from credit to block; None until its first block has come.
    """

    __slots__ = ("_recent", "seconds")

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=KEPT)
        self.seconds: float | None = None

    def took(self, seconds: float) -> None:
        """Count a block."""
        self._recent.append(seconds)
        self.seconds = sorted(self._recent)[(len(self._recent) - 1) // 2]


def fleet_seconds(paces: Iterable[Pace]) -> float | None:
    """The pace of the fleet: a quarter of the actors are at least as fast. None until one block has come.

    It is not the median, so that one fast actor among three slow ones does not wait for them; and not the fastest actor's,
    so that a single odd one does not make all others slow.
    """
    known = sorted(pace.seconds for pace in paces if pace.seconds is not None)
    return known[(len(known) - 1) // 4] if known else None
