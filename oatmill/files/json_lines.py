"""Reads a JSON Lines file while another process writes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LAST = 100
"""Number of lines at the end that are searched for the last complete line."""
TAIL_BYTES = 2**20
"""Number of bytes at the end that are read; long files are read repeatedly."""


class JsonLines:
    """Reads complete lines that are added to a file from now on; lines that are not JSON are skipped.

    Args:
        path: the file; it may not exist yet.

    Attributes:
        count: the number of lines read so far.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0
        self.count = 0

    def new(self) -> list[dict[str, Any]]:
        """The lines that were added since the last call."""
        if not self._path.exists() or self._path.stat().st_size == self._offset:
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        lines = _parsed_lines(whole)
        self.count += len(lines)
        return lines


def all_lines(path: Path) -> list[dict[str, Any]]:
    """All lines of a file that are JSON objects; none if the file does not exist."""
    return _parsed_lines(path.read_bytes()) if path.exists() else []


def last_line(path: Path) -> dict[str, Any] | None:
    """The last complete line of a file; None if there is none."""
    lines = last_lines(path, 1)
    return lines[-1] if lines else None


def last_lines(path: Path, count: int) -> list[dict[str, Any]]:
    """The last complete lines of a file, oldest first; there may be fewer.

    Args:
        path: the file; it may not exist.
        count: the largest number of lines, above 0.
    """
    if not path.exists():
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        content = file.read()
    lines = [line for text in content.splitlines()[-LAST:] if (line := _parsed(text)) is not None]
    return lines[-count:]


def _parsed_lines(content: bytes) -> list[dict[str, Any]]:
    return [line for text in content.splitlines() if (line := _parsed(text)) is not None]


def _parsed(text: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) else None
