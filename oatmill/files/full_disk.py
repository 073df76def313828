"""Writes the important files of a run folder even if its disk is full for a while.

Each write has one of two policies. A NEEDED write (events, run.json, summary.json, a server's
endpoint) waits in memory until there is room; reserved disk space is released for it step by step.
Any other write may be dropped: it is counted, and the run continues without it.
docs/operations/disks.md has a table of all files.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oatmill.files.atomic import FILE_MODE, append_line, write_file

_log = logging.getLogger("oatmill.files")

RESERVE = ".reserve"
RESERVE_BYTES = 2**20
LENT_BYTES = 64 * 2**10
"""How much of the reserve is released at once: other processes write to the same disk and would
take all of it."""
SPARE_BYTES = 4 * RESERVE_BYTES
"""The reserve is created again when this much is free."""
RETRY_EVERY_S = 0.25
MAX_WAITING = 10_000
"""Number of lines that may wait. Beyond it, the oldest lines are dropped and counted."""


def is_full(folder: Path) -> bool:
    """Whether the disk of a folder has no free block; False if the folder is gone."""
    try:
        return not os.statvfs(folder).f_bavail
    except OSError:
        return False


class Reserve:
    """Disk space that is reserved for needed writes on a full disk.

    Args:
        folder: the folder of the reserve's file.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / RESERVE

    def keep(self) -> None:
        """Allocate the space, if plenty of space is free."""
        with contextlib.suppress(OSError):
            status = os.statvfs(self._path.parent)
            held = self._path.stat().st_size if self._path.exists() else 0
            if held < RESERVE_BYTES and status.f_bavail * status.f_frsize > SPARE_BYTES:
                self._allocate()

    def _allocate(self) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT, FILE_MODE)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
            else:  # macOS
                os.write(descriptor, bytes(RESERVE_BYTES))
        finally:
            os.close(descriptor)

    def lend(self) -> bool:
        """Release a part of the space; False if nothing is left."""
        try:
            held = self._path.stat().st_size
            os.truncate(self._path, max(0, held - LENT_BYTES))
        except OSError:
            return False
        return held > 0

    def give_up(self) -> None:
        """Delete the reserve: the run has ended."""
        with contextlib.suppress(OSError):
            self._path.unlink()


class NeededWrites:
    """Makes writes at once, or as soon as there is room.

    Args:
        folder: the run folder; the reserve is in it.
        owner: whether this process maintains the reserve. Other processes may use it, too.

    Attributes:
        dropped: the number of lines that were dropped because too many waited.
    """

    def __init__(self, folder: Path, *, owner: bool = False) -> None:
        self._folder, self._owner = folder, owner
        self._reserve = Reserve(folder)
        self._lines: deque[tuple[Path, Mapping[str, Any]]] = deque()
        self._files: dict[Path, str] = {}
        self._said = False
        self.dropped = 0
        self.keep_reserve()

    @property
    def waiting(self) -> int:
        """The number of waiting writes."""
        return len(self._lines) + len(self._files)

    def line(self, path: Path, content: Mapping[str, Any]) -> None:
        """Append a line of JSON to a file. Lines keep their order."""
        self._lines.append((path, content))
        if len(self._lines) > MAX_WAITING:
            self._lines.popleft()
            self.dropped += 1
        self.flush()

    def file(self, path: Path, content: str) -> None:
        """Write a file atomically. If several contents wait for one file, only the newest is written."""
        self._files[path] = content
        self.flush()

    def flush(self) -> bool:
        """Make the waiting writes; returns whether none is left."""
        if not self.waiting:
            return True
        try:
            while self._lines:
                self._try(lambda: append_line(*self._lines[0]))
                self._lines.popleft()
            for path in list(self._files):
                self._try(lambda path=path: write_file(path, self._files[path]))
                del self._files[path]
        except OSError as error:
            if not self._folder.is_dir():  # there will never be room in it, which `close` and the run's error say
                return False
            if not self._said:
                _log.warning(
                    "%s cannot be written to (%s): events and summary wait in memory until there is room",
                    self._folder,
                    error.strerror,
                )
            self._said = True
            return False
        if self._said:
            _log.warning("%s can be written to again", self._folder)
            self._said = False
            self.keep_reserve()
        return True

    def keep_reserve(self) -> None:
        """Allocate the missing part of the reserve, if plenty of space is free."""
        if self._owner:
            self._reserve.keep()

    def _try(self, write: Any) -> None:
        try:
            write()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self._reserve.lend():
                raise
            write()

    def close(self, within_s: float = 0.0) -> None:
        """Make the waiting writes within a time limit, and delete the reserve. Lost writes are logged.

        If the folder was deleted or moved, nothing is waited for: there will never be room in it. Its owner logs nothing
        then, because the run ends with an error that says so.
        """
        deadline = time.monotonic() + within_s
        while not self.flush() and self._folder.is_dir() and time.monotonic() < deadline:
            time.sleep(RETRY_EVERY_S)
        if self._owner:
            self._reserve.give_up()
        gone = not self._folder.is_dir()
        if not self.flush() and not (gone and self._owner):
            names = sorted({path.name for path in (*self._files, *(path for path, _ in self._lines))})
            why = "is gone" if gone else "is full"
            _log.error("%s %s: %s could not be written completely", self._folder, why, ", ".join(names))
