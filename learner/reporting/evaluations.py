"""Takes the evaluator's results into the learner's reports."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oatmill.files.json_lines import JsonLines

EVALUATIONS_FILE = "evaluations.jsonl"
FIELDS = ("deterministic", "drawn", "env_steps")


class Evaluations:
    """The lines that the evaluator adds to its file.

    Args:
        run_dir: the run's folder.
    """

    def __init__(self, run_dir: Path) -> None:
        self._lines = JsonLines(run_dir / EVALUATIONS_FILE)

    def newest(self) -> Mapping[str, Any] | None:
        """The newest result since the last call: mean, std and n of both kinds of actions; None if there is none.

        `video` is the path, within the run folder, of the newest video since the last call, or None.
        """
        lines = self._lines.new()
        if not lines:
            return None
        video = next((line["video"] for line in reversed(lines) if line.get("video")), None)
        return {name: lines[-1].get(name) for name in FIELDS} | {"video": video}
