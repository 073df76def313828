"""Writing to a terminal or a pipe that may not be read, without waiting for its reader."""

from __future__ import annotations

import io
import os
import select
import stat
import threading
from collections import deque
from contextlib import suppress
from typing import TextIO

KEPT = 256
"""Texts that wait for a reader; the oldest goes when one more comes."""
LAST_WORDS_S = 5.0
"""How long a process that ends waits for its last words to be read."""


class Outlet:
    """Takes texts at once and writes them in a thread of its own, so that a paused terminal or a full pipe holds nobody up.

    The thread writes to the descriptor and takes no lock of the stream, so the process can end while it waits. It lives only as
    long as there is something to write.

    Args:
        output: a stream with a descriptor. What it has buffered goes first.
        kept: texts that may wait.

    Attributes:
        dropped: texts that nobody read in time, so far.
        error: why nothing can be written any more; None while it can. The next `write` raises it.
    """

    def __init__(self, output: TextIO, *, kept: int = KEPT) -> None:
        with suppress(OSError, ValueError):
            output.flush()
        self._descriptor = output.fileno()
        self._terminal = output.isatty()
        self.encoding = output.encoding or "utf-8"
        self._waiting: deque[str] = deque()
        self._kept, self._untold = kept, 0
        self._changed = threading.Condition()
        self._writing = False
        self.dropped = 0
        self.error: OSError | None = None

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._terminal

    def write(self, text: str) -> int:
        """Take a text; never waits.

        Raises:
            OSError: if an earlier text could not be written.
        """
        with self._changed:
            if self.error is not None:
                raise self.error
            if len(self._waiting) >= self._kept:
                self._waiting.popleft()
                self.dropped += 1
                self._untold += 1
            self._waiting.append(text)
            if not self._writing:
                self._writing = True
                threading.Thread(target=self._write_all, name="outlet", daemon=True).start()
        return len(text)

    def flush(self) -> None:
        """Does nothing: the thread writes as soon as the reader lets it."""

    def drain(self, within_s: float) -> bool:
        """Wait until everything is written, or the time is out; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._writing, within_s)

    def _write_all(self) -> None:
        while (text := self._next()) is not None:
            try:
                self._put(text.encode(self.encoding, errors="replace"))
            except OSError as error:
                self.error = error

    def _next(self) -> str | None:
        """The next text; None ends the thread."""
        with self._changed:
            if not self._waiting or self.error is not None:
                self._writing = False
                self._changed.notify_all()
                return None
            untold, self._untold = self._untold, 0
            text = self._waiting.popleft()
        # Not on a terminal: a line of its own would move the picture that is drawn there.
        return f"({untold} lines were not shown: nobody read this output)\n{text}" if untold and not self._terminal else text

    def _put(self, content: bytes) -> None:
        left = memoryview(content)
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:  # somebody who shares the descriptor has made it so
                select.select([], [self._descriptor], [])


def unblocked(output: TextIO) -> TextIO | Outlet:
    """The stream itself if writing to it never waits for a reader (a file, a string, a notebook), else an outlet to it."""
    if not isinstance(output, io.TextIOWrapper):
        return output
    try:
        mode = os.fstat(output.fileno()).st_mode
        waits = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or output.isatty()
    except (OSError, ValueError):
        return output
    return Outlet(output) if waits else output


def write_within(output: TextIO, text: str, within_s: float = LAST_WORDS_S) -> bool:
    """Write a text; False if its reader did not take it in time.

    Raises:
        OSError: if it cannot be written.
    """
    outlet = unblocked(output)
    outlet.write(text)
    if not isinstance(outlet, Outlet):
        outlet.flush()
        return True
    drained = outlet.drain(within_s)
    if outlet.error is not None:
        raise outlet.error
    return drained
