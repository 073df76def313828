"""Writes files so that readers see the old content or the new one, and never a part of it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FILE_MODE = 0o600
"""Only the owner may read a run's files: settings may contain secrets, and an address is enough to
stop a run."""
FOLDER_MODE = 0o700
"""Mode of a folder that is created for a run. An existing folder keeps its mode."""


def private_file(path: str, flags: int) -> int:
    """An `opener` for `open` that creates files which only their owner can read."""
    return os.open(path, flags, FILE_MODE)


def write_file(path: Path, content: str | bytes, *, sync: bool = False) -> None:
    """Write a file that only its owner may read. The file is either replaced completely or not changed.

    Args:
        path: the file.
        content: its whole content.
        sync: whether the file must survive a crash of the host once this returns.

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
    """Replace a file atomically by one that is written within the `with` block.

    Args:
        path: the file.

    Yields:
        The path to write to. It replaces the file at the end of the block, and is removed after an
        error.
    """
    working = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        working.unlink(missing_ok=True)  # a file that was left by a killed process would keep its mode
        yield working
        working.replace(path)
    finally:
        with contextlib.suppress(OSError):
            working.unlink()


def sync_path(path: Path) -> None:
    """Make a file's bytes, or the names in a folder, survive a crash of the host."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_link(link: Path, target: str | Path) -> None:
    """Create a symbolic link, or change its target atomically.

    Raises:
        OSError: if the link cannot be created; an old link stays.
    """
    working = link.with_name(f".{link.name}-{uuid.uuid4().hex}")  # containers that share a folder have the same process ids
    try:
        working.symlink_to(target)
        working.replace(link)
    finally:
        with contextlib.suppress(OSError):
            working.unlink()


def append_line(path: Path, content: Mapping[str, Any]) -> None:
    """Append a line of JSON to a file in one call, so that readers and other writers never see half a line.

    Raises:
        OSError: if it could not be written completely. The part that was written is not JSON, and
            the next line starts on its own.
    """
    line = json.dumps(content).encode() + b"\n"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, FILE_MODE)
    try:
        end = os.lseek(descriptor, 0, os.SEEK_END)
        if end > 0 and os.pread(descriptor, 1, end - 1) != b"\n":  # the last line is incomplete
            line = b"\n" + line
        if os.write(descriptor, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(descriptor)
