"""Finds a copy of this process that the user's code has made by `os.fork` and that came back from that code.

The copy would go on as if it were this process, with the same sockets and files, and make more copies. It ends, and this
process raises an error.
"""

from __future__ import annotations

import inspect
import mmap
import os
import time
from typing import NoReturn

from oatmill.errors import UserCodeError
from oatmill.user_code import place_in_frames

PLACE_BYTES = 1024
DEEPEST = 3
"""A copy of a copy of a copy is the last one. Code that starts programs in the background makes copies of copies."""
POLL_S = 0.001
PATIENCE_S = 1.0
"""The time in all that this process waits for copies to come back, before its next step makes more of them."""


class Copies:
    """Watches for copies of this process, from the time when it is made.

    Args:
        what: the user's code, for the message.
    """

    def __init__(self, what: str) -> None:
        self._what, self._own, self._place, self._depth = what, os.getpid(), "", 0
        self._shared = mmap.mmap(-1, PLACE_BYTES)  # with the copies; holds the place of the fork once one has come back
        self._forked, self._patience_s = False, PATIENCE_S
        os.register_at_fork(after_in_child=self._note_place, after_in_parent=self._note_fork)

    def check(self) -> None:
        """End this process if it is a copy. Call it wherever the user's code returns or raises.

        Raises:
            UserCodeError: if a copy has come back; it names the line of the user's code that made it.
        """
        if os.getpid() != self._own:
            self._end()
        if self._forked:
            self._wait()
        if self._shared[0]:
            place = self._shared[:PLACE_BYTES].rstrip(b"\0").decode(errors="replace")
            raise UserCodeError(f"{self._what} forked this process, and the copy did not end; call os._exit in it ({place})")

    def _wait(self) -> None:
        self._forked, began = False, time.monotonic()
        while not self._shared[0] and time.monotonic() - began < self._patience_s:
            time.sleep(POLL_S)
        self._patience_s -= time.monotonic() - began

    def _note_fork(self) -> None:
        self._forked = True

    def _note_place(self) -> None:
        self._place, self._depth = place_in_frames(inspect.currentframe()), self._depth + 1
        if self._depth > DEEPEST:
            self._end()

    def _end(self) -> NoReturn:
        self._shared[:PLACE_BYTES] = (self._place or "?").encode()[:PLACE_BYTES].ljust(PLACE_BYTES, b"\0")
        os._exit(0)
