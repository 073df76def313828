"""Limits the size of a log: the first and the newest lines are kept.

A process writes its log directly to a file. So it never waits for a reader, and even a hanging process can
write its stack traces. The supervisor shortens the file in place. Lines that are written at the same time
may be lost.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

FIRST_BYTES = 256 * 1024
LAST_BYTES = 1024 * 1024
LONGEST_BYTES = FIRST_BYTES + 2 * LAST_BYTES
"""A longer log is shortened to its first and its last part."""
LEFT_OUT = "[oatmill: %020d bytes of output were left out here; the first and the newest lines are kept]\n"
LEFT_OUT_PATTERN = re.compile(re.escape(LEFT_OUT).replace("%020d", r"(\d{20})").encode())
CHUNK_BYTES = 64 * 1024


def shorten(path: Path, start: int = 0) -> int:
    """Remove the middle of a log that is too long.

    Args:
        path: the log. Nothing happens if it is missing or cannot be written.
        start: a position in the log, in bytes.

    Returns:
        The new position of the text that was at `start`. If this text was removed, the position of the
        first text after it that was kept.
    """
    try:
        if path.stat().st_size <= LONGEST_BYTES:
            return start
        with path.open("r+b", buffering=0) as file:
            return _without_middle(file.fileno(), start)
    except OSError:
        return start


def _without_middle(file: int, start: int) -> int:
    head = os.pread(file, FIRST_BYTES + len(LEFT_OUT % 0), 0)
    mark = LEFT_OUT_PATTERN.search(head)
    first = mark.start() if mark else head.rfind(b"\n", 0, FIRST_BYTES) + 1 or FIRST_BYTES
    source = os.fstat(file).st_size - LAST_BYTES
    source += os.pread(file, CHUNK_BYTES, source).find(b"\n") + 1  # a longer line is cut
    already = int(mark[1]) - len(mark[0]) if mark else 0
    line = (LEFT_OUT % (source - first + already)).encode()
    os.pwrite(file, line, first)
    kept = first + len(line)
    moved = source - kept
    end = source + 2 * LAST_BYTES  # the file may grow faster than it is copied
    while source < end and (part := os.pread(file, CHUNK_BYTES, source)):
        source += os.pwrite(file, part, source - moved)
    os.ftruncate(file, source - moved)
    return start if start <= first else max(start - moved, kept)
