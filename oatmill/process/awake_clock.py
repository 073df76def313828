"""A clock for loops that wait for others: it does not count the time in which the process itself was asleep."""

from __future__ import annotations

import time

LONGEST_TURN_S = 5.0
"""Between two looks at the clock no more than this counts. A loop that looks every few hundred milliseconds never gets near."""


class AwakeClock:
    """The monotonic clock, less the time in which this process did not look at it.

    A process that was stopped (Ctrl-Z, ``docker pause``, a closed lid) or held up (a terminal that nobody reads) cannot know
    whether others were silent in that time: what they sent waits for it. So a long gap between two looks counts as one turn of
    the loop. Limits on the silence of others are measured with this clock. It must be looked at in every turn.

    One object belongs to one loop, in one thread.

    Args:
        longest_turn_s: seconds that a gap counts at most; less than the shortest limit that is measured.

    Attributes:
        asleep_s: seconds that were not counted so far.
    """

    def __init__(self, longest_turn_s: float = LONGEST_TURN_S) -> None:
        self._longest_s = longest_turn_s
        self._looked = time.monotonic()
        self.asleep_s = 0.0

    def now(self) -> float:
        """Seconds of the monotonic clock, less those asleep. Never goes back."""
        looked = time.monotonic()
        gap, self._looked = looked - self._looked, looked
        if gap > self._longest_s:
            self.asleep_s += gap - self._longest_s
        return looked - self.asleep_s
