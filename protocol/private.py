"""Files that only their owner may read: settings may hold secrets, and addresses say where a run can be told to stop."""

from __future__ import annotations

import os
from pathlib import Path

FILE_MODE = 0o600
FOLDER_MODE = 0o700
"""Of a folder that is made for a run. One that the user has made keeps the mode that the user has given it."""


def private_file(path: str, flags: int) -> int:
    """An `opener` for `open`: a file that is made by it is its owner's only."""
    return os.open(path, flags, FILE_MODE)


def write_private(path: Path, content: str | bytes) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    working = path.with_name(f"{path.name}.tmp")
    working.unlink(missing_ok=True)
    with open(working, "xb", opener=private_file) as file:
        file.write(content if isinstance(content, bytes) else content.encode())
    working.rename(path)
