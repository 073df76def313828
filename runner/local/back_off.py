"""How long a process that has died in vain waits before it is started again."""

from __future__ import annotations

BACK_OFF_S = 0.5
LONGEST_BACK_OFF_S = 10.0


def back_off(in_vain: int) -> float:
    """Seconds: none at first, then twice as long each time, up to 10.

    Args:
        in_vain: how often in a row it was started and died without getting any further.
    """
    return min(BACK_OFF_S * 2 ** (in_vain - 1), LONGEST_BACK_OFF_S) if in_vain else 0.0
