"""Writes the files of a run folder atomically, and handles a full disk.

Each write has one of two policies. A NEEDED write (events, run.json, summary.json, a server's endpoint) waits in memory until
there is room; a reserve on the disk is released for it step by step. Any other write may be dropped: it is counted, and the
run continues without it. docs/operations/disks.md has the table.

A state file is JSON with its kind, its version and a digest of its content, so that damage is detected.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import time
import uuid
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_log = logging.getLogger("oatmill.files")

FILE_MODE = 0o600
"""Only the owner may read a run's files: settings may hold secrets, and addresses say where a run can be told to stop."""
FOLDER_MODE = 0o700
"""Mode of a folder that is created for a run. An existing folder keeps its mode."""
STATE_VERSION = 1
RESERVE = ".reserve"
RESERVE_BYTES = 2**20
LENT_BYTES = 64 * 2**10
"""How much of the reserve is released at once: other processes write to the same disk and would take all of it."""
SPARE_BYTES = 4 * RESERVE_BYTES
"""The reserve is created again when this much is free."""
RETRY_EVERY_S = 0.25
MAX_WAITING = 10_000
"""Number of lines that may wait. Beyond it, the oldest lines are dropped and counted."""


class DamagedStateError(Exception):
    """A state file is damaged; the message says how."""


def private_file(path: str, flags: int) -> int:
    """An `opener` for `open`: a file that it creates can be read by its owner only."""
    return os.open(path, flags, FILE_MODE)


def write_file(path: Path, content: str | bytes, *, sync: bool = False) -> None:
    """Write a file that only its owner may read, whole or not at all.

    Args:
        path: the file.
        content: its whole content.
        sync: whether the file survives a crash of the host once this returns.

    Raises:
        OSError: if the file cannot be written; the old file stays.
    """
    with replacing(path) as working, open(working, "xb", opener=private_file) as file:
        file.write(content.encode() if isinstance(content, str) else content)
        if sync:
            file.flush()
            os.fsync(file.fileno())


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Replace a file by one that is written within the `with` block, at once for every reader.

    Args:
        path: the file.

    Yields:
        Where to write. It takes the file's place at the end of the block; after an error it is removed.
    """
    working = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        working.unlink(missing_ok=True)  # what a killed process of this id has left keeps its mode
        yield working
        working.replace(path)
    finally:
        with contextlib.suppress(OSError):
            working.unlink()


def replace_link(link: Path, target: str | Path) -> None:
    """Make a symbolic link, or point it elsewhere, at once for every reader.

    Raises:
        OSError: if the folder cannot have it; an old link stays.
    """
    working = link.with_name(f".{link.name}-{uuid.uuid4().hex}")  # containers that share a folder have the same process ids
    try:
        working.symlink_to(target)
        working.replace(link)
    finally:
        with contextlib.suppress(OSError):
            working.unlink()


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
        kind: what the file holds.
        content: values that JSON can hold.
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
    """Disk space that is kept for needed writes on a full disk.

    Args:
        folder: the folder of its file.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / RESERVE

    def keep(self) -> None:
        """Allocate the space, if plenty is free."""
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
    """Makes writes now, or as soon as there is room.

    Args:
        folder: the run folder; the reserve is kept there.
        owner: whether this process maintains the reserve. Other processes may use it too.

    Attributes:
        dropped: number of lines that were dropped because too many waited.
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
        """Number of waiting writes."""
        return len(self._lines) + len(self._files)

    def line(self, path: Path, content: Mapping[str, Any]) -> None:
        """Add a line of JSON to a file. Lines keep their order."""
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
        """Make the waiting writes within a time limit and delete the reserve. Writes that are lost are logged.

        A folder that was deleted or moved away is not waited for: there will never be room in it.
        """
        deadline = time.monotonic() + within_s
        while not self.flush() and self._folder.is_dir() and time.monotonic() < deadline:
            time.sleep(RETRY_EVERY_S)
        if self._owner:
            self._reserve.give_up()
        if not self.flush():
            names = sorted({path.name for path in (*self._files, *(path for path, _ in self._lines))})
            why = "is full" if self._folder.is_dir() else "is gone"
            _log.error("%s %s: %s could not be written to the end", self._folder, why, ", ".join(names))
