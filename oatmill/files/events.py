"""events.jsonl of a run folder, which supervisor, learner and replay server all add to."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from oatmill.files.atomic import NeededWrites

NAME = "events.jsonl"


class Events:
    """One process's part in it. A line that a full disk does not take waits in memory.

    Args:
        run_dir: the run's folder.
    """

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / NAME
        self._writes = NeededWrites(run_dir)

    def add(self, event: str, **values: Any) -> None:
        """Add a line; one with a `text` is shown to whoever watches the run."""
        self._writes.line(self._path, {"time": time.time(), "event": event} | values)

    def flush(self) -> None:
        """Write what waits, if there is room."""
        self._writes.flush()

    def close(self) -> None:
        """Write what waits; what cannot be written is said."""
        self._writes.close()
