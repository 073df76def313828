"""Places at which a test can kill a process.

`OATMILL_FAILPOINT=NAME` selects one, `NAME:COUNT` its COUNT-th pass. The variable is read once,
when the process starts. Without it, a failpoint costs one comparison.
"""

from __future__ import annotations

import os
import signal

VARIABLE = "OATMILL_FAILPOINT"
NAMES = (
    "log.write.before",
    "log.write.half",
    "log.write.after",
    "log.sync.before",
    "log.sync.after",
    "ack.before",
    "ack.after",
    "checkpoint.rename.before",
    "checkpoint.rename.after",
    "buffer.write.half",
    "buffer.rename.before",
    "buffer.rename.after",
)
"""All failpoints."""

_name, _, _count = os.environ.get(VARIABLE, "").partition(":")
_left = int(_count or 1) if _name else 0


def failpoint(name: str) -> None:
    """Kill this process with SIGKILL at this place, if a test has asked for it."""
    global _left  # noqa: PLW0603  (counts down once in a process's life)
    if name != _name:
        return
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)


def armed(name: str) -> bool:
    """Whether the process will be killed the next time that it passes this place."""
    return name == _name and _left == 1
