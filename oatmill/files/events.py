"""events.jsonl of a run folder; the supervisor, the learner and the replay server append to it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from oatmill.files.full_disk import NeededWrites
from oatmill.files.run_files import EVENTS_FILE


class Events:
    """Appends events for one process. If the disk is full, lines wait in memory.

    Args:
        run_dir: the run's folder.
    """

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / EVENTS_FILE
        self._writes = NeededWrites(run_dir)

    def add(self, event: str, **values: Any) -> None:
        """Add an event. If it has a `text`, the run's observer shows it."""
        self._writes.line(self._path, {"time": time.time(), "event": event} | values)

    def flush(self) -> None:
        """Write waiting lines, if there is room."""
        self._writes.flush()

    def close(self) -> None:
        """Write waiting lines. Lines that cannot be written are logged as lost."""
        self._writes.close()
