"""Writes to a terminal or a pipe without waiting for its reader."""

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
"""The number of texts that wait for a reader. Beyond it, the oldest is dropped."""
LAST_WORDS_S = 5.0
"""How long a process that ends waits until its last output was read."""


class NonBlockingOutput:
    """Takes texts without waiting, and writes them in its own thread.

    So a paused terminal or a full pipe does not block this process. The thread writes to the file
    descriptor without the stream's lock, so the process can end while the thread waits. The thread
    exists only while there is something to write.

    Args:
        output: a stream with a file descriptor. What it has buffered is written first.
        kept: the number of texts that may wait.

    Attributes:
        dropped: the number of texts that were dropped so far.
        error: the error of a failed write; None if there was none. The next `write` raises it.
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
        """Whether the output is a terminal."""
        return self._terminal

    def write(self, text: str) -> int:
        """Take a text. Never waits.

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
        """Do nothing: the thread writes as soon as the reader allows it."""

    def drain(self, within_s: float) -> bool:
        """Wait until everything is written, or the timeout; returns whether everything is written."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._writing, within_s)

    def _write_all(self) -> None:
        while (text := self._next()) is not None:
            try:
                self._put(text.encode(self.encoding, errors="replace"))
            except OSError as error:
                self.error = error

    def _next(self) -> str | None:
        """Return the next text; None ends the thread."""
        with self._changed:
            if not self._waiting or self.error is not None:
                self._writing = False
                self._changed.notify_all()
                return None
            untold, self._untold = self._untold, 0
            text = self._waiting.popleft()
        # Not on a terminal, where an additional line would break the display.
        return (
            f"({untold} lines were dropped, because this output was not read)\n{text}"
            if untold and not self._terminal
            else text
        )

    def _put(self, content: bytes) -> None:
        left = memoryview(content)
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:  # another process that shares the descriptor has made it non-blocking
                select.select([], [self._descriptor], [])


def unblocked(output: TextIO) -> TextIO | NonBlockingOutput:
    """Return the stream itself if writing never waits (a file, a string, a notebook), otherwise an NonBlockingOutput."""
    if not isinstance(output, io.TextIOWrapper):
        return output
    try:
        mode = os.fstat(output.fileno()).st_mode
        waits = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or output.isatty()
    except (OSError, ValueError):
        return output
    return NonBlockingOutput(output) if waits else output


def write_within(output: TextIO, text: str, within_s: float = LAST_WORDS_S) -> bool:
    """Write a text; False if its reader did not read it in time.

    Raises:
        OSError: if it cannot be written.
    """
    outlet = unblocked(output)
    outlet.write(text)
    if not isinstance(outlet, NonBlockingOutput):
        outlet.flush()
        return True
    drained = outlet.drain(within_s)
    if outlet.error is not None:
        raise outlet.error
    return drained
