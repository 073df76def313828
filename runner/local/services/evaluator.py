"""Keeps a run's evaluator running; whatever happens to it, the run goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from learner.reporting.evaluations import EVALUATIONS_FILE
from oatmill.files.json_lines import JsonLines
from oatmill.files.run_files import LEARNER_FILE
from runner.folder import RunFolder
from runner.local.child import Child, back_off, end_all

MAX_RESTARTS = 5
"""In a row, with no evaluation in between."""
LAST_WITHIN_S = 60.0
"""After training, the last checkpoint is played for so long at most."""
GRACE_S = 2.0
POLL_S = 0.1


class EvaluatorService:
    """Starts the evaluator, and starts it again if it is killed or crashes.

    Args:
        start: starts the process.
        folder: the run's folder, for its events and evaluations.
    """

    def __init__(self, start: Callable[[], Child], folder: RunFolder) -> None:
        self._start, self._folder = start, folder
        self._lines = JsonLines(folder.path / EVALUATIONS_FILE)
        self._child: Child | None = None
        self._due: float | None = 0.0
        self._fruitless = self._restarts = 0

    def turn(self) -> list[dict[str, Any]]:
        """Restart the evaluator if it has ended and its restart is due; returns its entry in run.json, if it runs."""
        if self._due is not None and time.monotonic() >= self._due:
            self._due, self._child = None, self._start()
        if self._child is None:
            return []
        if self._child.exit_code is not None:
            ended, self._child = self._child, None
            self._after(ended)
            return []
        self._child.bound_log()
        return [{"role": "evaluator", "id": 0, "pid": self._child.pid, "restarts": self._restarts}]

    def _after(self, child: Child) -> None:
        """Plan the restart of a process that has ended, or give up."""
        if child.exit_code == 0:
            return
        end_all([child], grace_s=0.0)  # what its environments started
        self._fruitless = 0 if self._lines.new() else self._fruitless
        why = f"the evaluator {child.ending}{f': {child.error}' if child.error else ''}"
        if self._fruitless >= MAX_RESTARTS:
            self._folder.event("evaluator_given_up", text=f"{why}; the run continues without it, its log is {child.log}")
            return
        self._fruitless += 1
        self._restarts += 1
        wait = back_off(self._fruitless)
        self._due = time.monotonic() + wait
        text = f"{why}; restarting in {wait:g} s, and training continues"
        self._folder.event("evaluator_restarted", text=text, pid=child.pid, how=child.ending)

    def finish(self, *, stopped: Callable[[], bool]) -> None:
        """End the evaluator. If the learner has ended as planned, wait until it has played the last checkpoint.

        Args:
            stopped: returns whether the run was asked to stop, so that nobody wants to wait.
        """
        if self._child is None:
            return
        deadline = time.monotonic() + LAST_WITHIN_S
        ended_well = (self._folder.path / LEARNER_FILE).exists()
        while ended_well and not stopped() and self._child.exit_code is None and time.monotonic() < deadline:
            time.sleep(POLL_S)
        end_all([self._child], grace_s=GRACE_S)
