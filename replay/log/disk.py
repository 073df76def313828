"""The operations that the log needs from a file system. Tests replace the real one with a simulated one."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from oatmill.errors import UserError
from oatmill.files.atomic import write_file
from oatmill.process.failpoints import armed, failpoint
from protocol.wire.codec import Buffer

MAX_VECTORS = 1024
"""Buffers that one system call takes (IOV_MAX on Linux)."""
LOCK = ".lock"
LOCKED_WITHIN_S = 10.0


def log_folder(log_dir: str | None, run_dir: Path) -> Path:
    """Where a run's log lies, and its replay buffer's snapshots below it.

    Args:
        log_dir: replay.log_dir.
        run_dir: the run's folder.
    """
    return Path(log_dir) if log_dir else run_dir / "log"


class Disk(Protocol):
    """Files by name in one folder. Every call may raise OSError."""

    def names(self) -> list[str]:
        """Every file's name, in order."""

    def read(self, name: str) -> bytes:
        """A whole file."""

    def read_part(self, name: str, offset: int, length: int) -> bytes:
        """Bytes of a file."""

    def create(self, name: str) -> None:
        """Begin a file to append to; once this returns, the name survives a crash."""

    def append(self, buffers: Sequence[Buffer]) -> None:
        """Add bytes to the file begun last."""

    def sync(self) -> None:
        """Once this returns, the bytes of the file begun last survive a crash."""

    def cut(self, name: str, length: int) -> None:
        """Let go of a file's bytes from `length` on."""

    def remove(self, name: str) -> None:
        """Remove a file."""

    def keep(self, name: str, aside: str) -> None:
        """Give a file a second name, which stays when the first one is removed."""

    def replace(self, name: str, content: bytes) -> None:
        """Write a small file, whole or not at all."""


class FolderDisk:
    """A folder of the real file system, held by this process alone until it ends, however it ends.

    Args:
        folder: made if it is not there.
        durable: whether `create` and `sync` wait for the disk; else what is written survives this process only.

    Raises:
        UserError: if the folder cannot be made or written to, or another process holds it.
    """

    def __init__(self, folder: Path, *, durable: bool) -> None:
        self._folder, self._durable = folder, durable
        self._file = -1
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise UserError(f"the log's folder {folder} cannot be written to: {error.strerror}; set replay.log_dir") from None
        self._wait_for_lock()

    def _wait_for_lock(self) -> None:
        """A server that was just killed lets go of its lock within moments."""
        deadline = time.monotonic() + LOCKED_WITHIN_S
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise UserError(
                        f"another replay server writes its log to {self._folder}; give this one a replay.log_dir of its own"
                    ) from None
                time.sleep(0.02)
            else:
                return

    def names(self) -> list[str]:
        """Every file's name, in order."""
        return sorted(path.name for path in self._folder.iterdir() if path.name != LOCK)

    def read(self, name: str) -> bytes:
        """A whole file."""
        return (self._folder / name).read_bytes()

    def read_part(self, name: str, offset: int, length: int) -> bytes:
        """Bytes of a file."""
        with (self._folder / name).open("rb") as file:
            return os.pread(file.fileno(), length, offset)

    def create(self, name: str) -> None:
        """Begin a file to append to."""
        self._close_file()
        self._file = os.open(self._folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        if self._durable:
            descriptor = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def append(self, buffers: Sequence[Buffer]) -> None:
        """Add bytes to the file begun last."""
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
        """Make the bytes of the file begun last survive a crash of the host."""
        if self._durable:
            failpoint("log.sync.before")
            os.fdatasync(self._file)
            failpoint("log.sync.after")

    def cut(self, name: str, length: int) -> None:
        """Let go of a file's bytes from `length` on."""
        os.truncate(self._folder / name, length)

    def remove(self, name: str) -> None:
        """Remove a file."""
        (self._folder / name).unlink()

    def keep(self, name: str, aside: str) -> None:
        """Give a file a second name; where the file system has no hard links, a copy."""
        try:
            os.link(self._folder / name, self._folder / aside)
        except OSError:
            shutil.copyfile(self._folder / name, self._folder / aside)

    def replace(self, name: str, content: bytes) -> None:
        """Write a small file, whole or not at all."""
        write_file(self._folder / name, content, sync=self._durable)

    def _close_file(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def close(self) -> None:
        """Close everything and let the folder go."""
        self._close_file()
        os.close(self._lock)
