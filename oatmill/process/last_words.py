"""The error line of a process. It reaches the parent through a pipe, too: the process's log may be on a full disk."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import weakref

VARIABLE = "OATMILL_LAST_WORDS"
"""The environment variable with the number of the pipe's writing end."""
PART_BYTES = 65_536

_pipe: list[int] = []


class LastWords:
    """The pipe of a child process, or of several. The parent reads it.

    Attributes:
        descriptor: the writing end, which the child inherits (`pass_fds`).
        environment: the variable that the child needs.
    """

    def __init__(self) -> None:
        self._source, self.descriptor = os.pipe()
        os.set_blocking(self._source, False)
        os.set_blocking(self.descriptor, False)  # the child never waits for a reader
        weakref.finalize(self, os.close, self._source)
        self._given = weakref.finalize(self, os.close, self.descriptor)
        self.environment = {VARIABLE: str(self.descriptor)}
        self._text = b""

    def given(self) -> None:
        """Close this process's writing end: the last child has been started."""
        self._given()

    def read(self) -> list[str]:
        """The lines so far."""
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self._source, PART_BYTES):
                self._text += part
        return self._text.decode(errors="replace").splitlines()


def inherit() -> None:
    """Take the pipe that the parent may have given to this process; its own children do not get it."""
    with contextlib.suppress(KeyError, ValueError, OSError):
        descriptor = int(os.environ.pop(VARIABLE))
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            os.set_inheritable(descriptor, False)  # noqa: FBT003  (it takes no keyword)
            _pipe[:] = [descriptor]


def say_last(line: str, *, shown: bool = True) -> None:
    """Write this process's error line. A full disk is no error.

    Args:
        line: the line, with a line break at its end.
        shown: whether to write it to standard error and not only to the parent's pipe.
    """
    if shown:
        with contextlib.suppress(OSError):
            sys.stderr.write(line)
    for descriptor in _pipe:
        with contextlib.suppress(OSError):
            os.write(descriptor, line.encode())
