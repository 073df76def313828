"""How an actor process is told to leave."""

from __future__ import annotations

import signal
from types import FrameType


class StopSignal:
    """Set by SIGTERM and SIGINT from its making on; whoever works looks at it now and then.

    Attributes:
        is_set: whether this process is to leave.
    """

    def __init__(self) -> None:
        self.is_set = False
        signal.signal(signal.SIGTERM, self._set)
        signal.signal(signal.SIGINT, self._set)

    def _set(self, _signal: int, _frame: FrameType | None) -> None:
        self.is_set = True
