"""The operations that the log needs from a file system. Tests replace the real one with a simulation."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from oatmill.errors import UserError
from oatmill.files.atomic import sync_path, write_file
from oatmill.process.failpoints import armed, failpoint
from protocol.wire.codec import Buffer

MAX_VECTORS = 1024
"""The number of buffers per system call (IOV_MAX on Linux)."""
LOCK = ".lock"
LOCKED_WITHIN_S = 10.0


def log_folder(log_dir: str | None, run_dir: Path) -> Path:
    """Return the folder of a run's log. Snapshots of the replay buffer are below it.

    Args:
        log_dir: the setting replay.log_dir.
        run_dir: the run's folder.
    """
    return Path(log_dir) if log_dir else run_dir / "log"


class Disk(Protocol):
    """Files by name in one folder. Every call may raise OSError."""

    def names(self) -> list[str]:
        """Return the names of all files, in order."""

    def read(self, name: str) -> bytes:
        """Return the content of a file."""

    def read_part(self, name: str, offset: int, length: int) -> bytes:
        """Return a part of a file."""

    def create(self, name: str) -> None:
        """Create a file to append to. Once this returns, the name survives a crash."""

    def append(self, buffers: Sequence[Buffer]) -> None:
        """Append bytes to the file that was created last."""

    def sync(self) -> None:
        """Sync the file that was created last. Once this returns, its bytes survive a crash."""

    def cut(self, name: str, length: int) -> None:
        """Remove a file's bytes from `length` on."""

    def remove(self, name: str) -> None:
        """Remove a file."""

    def keep(self, name: str, aside: str) -> None:
        """Give a file a second name, which stays when the first one is removed."""

    def replace(self, name: str, content: bytes) -> None:
        """Write a small file atomically."""


class FolderDisk:
    """A folder of the real file system. Only this process can use it until it ends.

    Args:
        folder: the folder, created if it does not exist.
        durable: whether `create` and `sync` wait for the disk. Otherwise, written data survives
            only the process.
        parents: whether to create the folder's parents too. A folder inside a run folder is created
            without them, so that a run folder that was deleted stays so.

    Raises:
        UserError: if the folder cannot be created or written to, or another process uses it.
    """

    def __init__(self, folder: Path, *, durable: bool, parents: bool = False) -> None:
        self._folder, self._durable = folder, durable
        self._file = -1
        try:
            folder.mkdir(parents=parents, exist_ok=True)
            self._lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise UserError(f"the log's folder {folder} cannot be written to: {error.strerror}; set replay.log_dir") from None
        self._wait_for_lock()

    def _wait_for_lock(self) -> None:
        """Lock the folder. A server that was just killed releases its lock within moments."""
        deadline = time.monotonic() + LOCKED_WITHIN_S
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise UserError(
                        f"another replay server writes its log to {self._folder}; set another replay.log_dir for this one"
                    ) from None
                time.sleep(0.02)
            else:
                return

    def names(self) -> list[str]:
        """Return the names of all files, in order."""
        return sorted(path.name for path in self._folder.iterdir() if path.name != LOCK)

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        return (self._folder / name).read_bytes()

    def read_part(self, name: str, offset: int, length: int) -> bytes:
        """Return a part of a file."""
        with (self._folder / name).open("rb") as file:
            return os.pread(file.fileno(), length, offset)

    def create(self, name: str) -> None:
        """Create a file to append to."""
        self._close_file()
        self._file = os.open(self._folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        if self._durable:
            sync_path(self._folder)

    def append(self, buffers: Sequence[Buffer]) -> None:
        """Append bytes to the file that was created last."""
        failpoint("log.write.before")
        if armed("log.write.half"):
            whole = b"".join(buffers)
            os.write(self._file, whole[: len(whole) // 2])
            failpoint("log.write.half")
        for start in range(0, len(buffers), MAX_VECTORS):
            self._append(buffers[start : start + MAX_VECTORS])
        failpoint("log.write.half")
        failpoint("log.write.after")

    def _append(self, buffers: Sequence[Buffer]) -> None:
        rest: list[Buffer] = [memoryview(buffer) for buffer in buffers if len(buffer)]
        while rest:
            written = os.writev(self._file, rest)
            while rest and written >= len(rest[0]):
                written -= len(rest.pop(0))
            if written:
                rest[0] = memoryview(rest[0])[written:]

    def sync(self) -> None:
        """Make the bytes of the file that was created last survive a crash of the host."""
        if self._durable:
            failpoint("log.sync.before")
            getattr(os, "fdatasync", os.fsync)(self._file)  # macOS has no fdatasync
            failpoint("log.sync.after")

    def cut(self, name: str, length: int) -> None:
        """Remove a file's bytes from `length` on."""
        os.truncate(self._folder / name, length)

    def remove(self, name: str) -> None:
        """Remove a file."""
        (self._folder / name).unlink()

    def keep(self, name: str, aside: str) -> None:
        """Give a file a second name, or copy it if the file system has no hard links."""
        try:
            os.link(self._folder / name, self._folder / aside)
        except OSError:
            shutil.copyfile(self._folder / name, self._folder / aside)

    def replace(self, name: str, content: bytes) -> None:
        """Write a small file atomically."""
        write_file(self._folder / name, content, sync=self._durable)

    def _close_file(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def close(self) -> None:
        """Close all files and release the lock."""
        self._close_file()
        os.close(self._lock)
