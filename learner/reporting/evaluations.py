"""Takes the evaluator's results into the learner's reports."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oatmill.files.json_lines import JsonLines

EVALUATIONS_FILE = "evaluations.jsonl"
FIELDS = ("deterministic", "drawn", "env_steps")
OLD_AFTER_S = 600.0
"""What the evaluator used is not exported any longer after this time: it may have ended."""


class Evaluations:
    """The lines that the evaluator adds to its file.

    Args:
        run_dir: the run's folder.
    """

    def __init__(self, run_dir: Path) -> None:
        self._lines = JsonLines(run_dir / EVALUATIONS_FILE)
        self._process: Mapping[str, float] = {}
        self._heard_at = -math.inf

    def newest(self) -> Mapping[str, Any] | None:
        """The newest result since the last call: mean, std and n of both kinds of actions; None if there is none.

        `video` is the path, within the run folder, of the newest video since the last call, or None.
        """
        lines = self._lines.new()
        if not lines:
            return None
        if isinstance(process := lines[-1].get("process"), dict):
            self._process, self._heard_at = process, time.monotonic()
        video = next((line["video"] for line in reversed(lines) if line.get("video")), None)
        return {name: lines[-1].get(name) for name in FIELDS} | {"video": video}

    def processes(self) -> Mapping[str, Mapping[str, float]]:
        """What the evaluator's process used at its newest evaluation, by the label `process`. Any thread may call it."""
        return {"evaluator": self._process} if time.monotonic() - self._heard_at < OLD_AFTER_S else {}
