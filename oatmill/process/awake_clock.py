"""A clock that does not count the time in which the process itself was paused."""

from __future__ import annotations

import time

LONGEST_TURN_S = 5.0
"""A longer gap between two readings counts only as this much. A loop that reads the clock every few
hundred milliseconds never gets near it."""


class AwakeClock:
    """The monotonic clock, without the time in which this process was paused.

    A process that was stopped (Ctrl-Z, ``docker pause``, a closed lid) or blocked (a terminal that
    nobody reads) cannot know whether others were silent in that time: their messages wait for it.
    So a long gap between two readings of the clock counts as one turn of the loop only. Time limits
    for the silence of others are measured with this clock, which must be read in every turn.

    An object belongs to one loop in one thread.

    Args:
        longest_turn_s: the most seconds that a gap counts; less than the shortest time limit that
            is measured.

    Attributes:
        asleep_s: the number of seconds that were not counted so far.
    """

    def __init__(self, longest_turn_s: float = LONGEST_TURN_S) -> None:
        self._longest_s = longest_turn_s
        self._looked = time.monotonic()
        self.asleep_s = 0.0

    def now(self) -> float:
        """Return the seconds of the monotonic clock, without the time asleep. Never goes back."""
        looked = time.monotonic()
        gap, self._looked = looked - self._looked, looked
        if gap > self._longest_s:
            self.asleep_s += gap - self._longest_s
        return looked - self.asleep_s
