"""How an actor in a container, which serves nothing, shows that it lives; and how one that hangs comes to its end."""

from __future__ import annotations

import time
from pathlib import Path

from protocol.errors import UserError
from protocol.watchdog import Watchdog

EVERY_S = 1.0
HUNG_AFTER_S = 60.0
"""An env step that takes longer than this hangs: the process writes where, and exits, to be started again."""


class Heart:
    """Touches a file at every beat, and ends the process when the beats stay away.

    Args:
        path: the file; None for a process that somebody else watches, for which nothing is done.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._next = 0.0
        self._watchdog = None if path is None else Watchdog("actor", HUNG_AFTER_S)

    def beat(self) -> None:
        """Say that the loop goes on. Cheap; call it often.

        Raises:
            UserError: if the file cannot be written.
        """
        now = time.monotonic()
        if self._path is None or self._watchdog is None or now < self._next:
            return
        self._next = now + EVERY_S
        self._watchdog.started()
        try:
            self._path.touch()
        except OSError as error:
            raise UserError(f"OATMILL_HEARTBEAT={self._path} cannot be written: {error.strerror}; name another file") from None

    def stop(self) -> None:
        """Expect no further beat."""
        if self._watchdog is not None:
            self._watchdog.close()
