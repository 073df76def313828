"""How files of a run folder are written: whole or not at all, and what becomes of a write that the disk does not take.

Each write has one of two policies. A NEEDED one (events, run.json, summary.json, the endpoint of a server) waits in memory and
is made as soon as there is room; a reserve on the disk is given up for it bit by bit. Any other may be dropped: it is counted,
and the run goes on without it. docs/operations/disks.md has the table.

A state file is JSON that says what it is, in which version, and the digest of its content, so that a damaged one is known.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_log = logging.getLogger("oatmill.files")

FILE_MODE = 0o600
"""Only the owner may read a run's files: settings may hold secrets, and addresses say where a run can be told to stop."""
FOLDER_MODE = 0o700
"""Of a folder that is made for a run. One that the user has made keeps its mode."""
STATE_VERSION = 1
RESERVE = ".reserve"
RESERVE_BYTES = 2**20
LENT_BYTES = 64 * 2**10
"""What of the reserve is given up at once: others write to the same disk, and would take all of it."""
SPARE_BYTES = 4 * RESERVE_BYTES
"""The reserve is made again when this much is free."""
RETRY_EVERY_S = 0.25
MAX_WAITING = 10_000
"""Lines that may wait; beyond it the oldest are dropped, and counted."""


class DamagedStateError(Exception):
    """A state file is not as it was written; the message says how."""


def private_file(path: str, flags: int) -> int:
    """An `opener` for `open`: a file that it creates can be read by its owner only."""
    return os.open(path, flags, FILE_MODE)


def write_file(path: Path, content: str | bytes, *, sync: bool = False) -> None:
    """Write a file that only its owner may read, whole or not at all.

    Args:
        path: of it.
        content: all of it.
        sync: whether it survives a crash of the host once this returns.

    Raises:
        OSError: if it cannot be written; what was there before stays.
    """
    working = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        working.unlink(missing_ok=True)  # what a killed process of this id has left keeps its mode
        descriptor = os.open(working, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            if sync:
                file.flush()
                os.fsync(descriptor)
        working.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            working.unlink()
        raise


def append_line(path: Path, content: Mapping[str, Any]) -> None:
    """Add a line of JSON to a file, in one call, so that a reader never sees half of it and other writers' lines stay whole.

    Raises:
        OSError: if it could not be written whole. What was written of it is no JSON, and the next line starts on its own.
    """
    line = json.dumps(content).encode() + b"\n"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, FILE_MODE)
    try:
        end = os.lseek(descriptor, 0, os.SEEK_END)
        if end > 0 and os.pread(descriptor, 1, end - 1) != b"\n":  # torn
            line = b"\n" + line
        if os.write(descriptor, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(descriptor)


# --------------------------------------------------------------------------------------------------------- state files


def sealed(kind: str, content: Any) -> bytes:
    """A state file's bytes.

    Args:
        kind: what it is of.
        content: JSON values.
    """
    return json.dumps(
        {"oatmill": kind, "version": STATE_VERSION, "digest": _digest(kind, content), "content": content}
    ).encode()


def unsealed(kind: str, data: bytes) -> Any:
    """The content of a state file's bytes.

    Raises:
        DamagedStateError: if they are not what `sealed` gave.
    """
    try:
        values = json.loads(data)
        found = values["oatmill"], values["version"], values["digest"]
        content = values["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise DamagedStateError("it is not a state file") from None
    if found[:2] != (kind, STATE_VERSION):
        raise DamagedStateError(f"expected {kind} of version {STATE_VERSION}, got {str(found[0])[:40]} of {str(found[1])[:40]}")
    if found[2] != _digest(kind, content):
        raise DamagedStateError("its content does not fit its digest")
    return content


def _digest(kind: str, content: Any) -> str:
    canonical = json.dumps([kind, content], sort_keys=True, separators=(",", ":")).encode()
    return hashlib.blake2b(canonical, digest_size=16).hexdigest()


# ------------------------------------------------------------------------------------------------------ a full disk


class Reserve:
    """Room that is kept for what has to be written on a full disk.

    Args:
        folder: where its file lies.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / RESERVE

    def keep(self) -> None:
        """Take the room, if there is plenty."""
        with contextlib.suppress(OSError):
            status = os.statvfs(self._path.parent)
            held = self._path.stat().st_size if self._path.exists() else 0
            if held < RESERVE_BYTES and status.f_bavail * status.f_frsize > SPARE_BYTES:
                self._allocate()

    def _allocate(self) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT, FILE_MODE)
        try:
            os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
        finally:
            os.close(descriptor)

    def lend(self) -> bool:
        """Give up a part of it; False if nothing is left."""
        try:
            held = self._path.stat().st_size
            os.truncate(self._path, max(0, held - LENT_BYTES))
        except OSError:
            return False
        return held > 0

    def give_up(self) -> None:
        """Take it away: the run has ended."""
        with contextlib.suppress(OSError):
            self._path.unlink()


class NeededWrites:
    """Writes that are made now, or as soon as there is room.

    Args:
        folder: the run's; the reserve lies there.
        owner: whether this process keeps the reserve; any other takes from it all the same.

    Attributes:
        dropped: lines that waited for too long and were let go of.
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
        """Writes that have not been made."""
        return len(self._lines) + len(self._files)

    def line(self, path: Path, content: Mapping[str, Any]) -> None:
        """Add a line of JSON to a file. Lines keep their order."""
        self._lines.append((path, content))
        if len(self._lines) > MAX_WAITING:
            self._lines.popleft()
            self.dropped += 1
        self.flush()

    def file(self, path: Path, content: str) -> None:
        """Write a file, whole or not at all; of several contents that wait the newest is written."""
        self._files[path] = content
        self.flush()

    def flush(self) -> bool:
        """Make what waits; whether nothing waits any more."""
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
            if not self._said:
                _log.warning(
                    "%s cannot be written to (%s): events and summary wait in memory until it can", self._folder, error.strerror
                )
            self._said = True
            return False
        if self._said:
            _log.warning("%s can be written to again", self._folder)
            self._said = False
            self.keep_reserve()
        return True

    def keep_reserve(self) -> None:
        """Take the reserve's room, as far as it is missing and there is plenty."""
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
        """Make what waits, in some time at most, and give the reserve up. What cannot be written is lost, and says so."""
        deadline = time.monotonic() + within_s
        while not self.flush() and time.monotonic() < deadline:
            time.sleep(RETRY_EVERY_S)
        if self._owner:
            self._reserve.give_up()
        if not self.flush():
            names = sorted({path.name for path in (*self._files, *(path for path, _ in self._lines))})
            _log.error("%s is full: %s could not be written to the end", self._folder, ", ".join(names))
