"""A log that keeps its first and its newest lines, however much is written to it.

The process that writes has the file open for appending, and knows nothing of this: no pipe stands between, so that it can
neither block nor die when nobody reads, and the dump of a process that hangs arrives, too. Whoever watches over the process
shortens the file where it is. What is written in the instant before the file is cut may be lost with what is left out.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

FIRST_BYTES = 256 * 1024
LAST_BYTES = 1024 * 1024
LONGEST_BYTES = FIRST_BYTES + 2 * LAST_BYTES
"""A log that is longer is shortened to its first and its last part."""
LEFT_OUT = "[oatmill: %020d bytes of output were left out here; the first and the newest lines are kept]\n"
LEFT_OUT_PATTERN = re.compile(re.escape(LEFT_OUT).replace("%020d", r"(\d{20})").encode())
CHUNK_BYTES = 64 * 1024


def shorten(path: Path, start: int = 0) -> int:
    """Take the middle out of a log that has grown too long.

    Args:
        path: the log. One that is gone, or cannot be written, is left as it is.
        start: a place in the log, in bytes, of something that the caller wants to find again.

    Returns:
        Where that place is now; where it was left out, the beginning of what is kept behind it.
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
    source += os.pread(file, CHUNK_BYTES, source).find(b"\n") + 1  # a line that is longer is cut
    already = int(mark[1]) - len(mark[0]) if mark else 0
    line = (LEFT_OUT % (source - first + already)).encode()
    os.pwrite(file, line, first)
    kept = first + len(line)
    moved = source - kept
    while part := os.pread(file, CHUNK_BYTES, source):  # to its end, which may still be growing
        source += os.pwrite(file, part, source - moved)
    os.ftruncate(file, source - moved)
    return start if start <= first else max(start - moved, kept)
