"""Following a file of JSON lines while another process writes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class JsonLines:
    """Reads what is added to a file from now on, whole lines only.

    Args:
        path: the file; it need not exist yet.

    Attributes:
        count: lines read so far.
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
        lines = [json.loads(line) for line in whole.splitlines()]
        self.count += len(lines)
        return lines


def last_line(path: Path) -> dict[str, Any] | None:
    """The last whole line of a file; None if there is none."""
    if not path.exists():
        return None
    lines = [line for line in path.read_text().splitlines() if line.endswith("}")]
    return json.loads(lines[-1]) if lines else None
