"""Restarts one service of a run, the replay server or the learner, if it crashes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Generic

from oatmill.process.exit_codes import BAD_INPUT
from runner.local.child import back_off
from runner.local.launcher import P

NAMES = {"replay": "the replay server", "learner": "the learner"}


class Service(Generic[P]):
    """Keeps one service running.

    A service that was killed or crashed is restarted as long as the run makes progress between
    restarts. A service that exits with its own error line is not restarted.

    Args:
        role: `replay` or `learner`.
        start: starts the service again.
        where: returns a phrase that says where a restarted service continues.
        max_restarts: the number of restarts in a row without a reported learner step in between, after
            which the run fails.
        notice: called for each event with its name, a line for the user, and values.

    Attributes:
        child: the newest process.
        restarts: the number of restarts so far.
    """

    def __init__(
        self,
        role: str,
        start: Callable[[], P],
        *,
        where: Callable[[], str],
        max_restarts: int,
        notice: Callable[[str, str, Mapping[str, Any]], None],
    ) -> None:
        self._role = role
        self._start = start
        self._where = where
        self._max_restarts = max_restarts
        self._notice = notice
        self._fruitless = 0
        self._due: float | None = None
        self._reports_before = 0
        self.restarts = 0
        self.child: P | None = None

    def turn(self, *, reports: int, stopping: bool) -> P | None:
        """Restart the service if it has ended and its restart is due.

        Args:
            reports: the number of reported learner steps so far; an increase is progress.
            stopping: whether the run is about to end; then nothing is started.

        Returns:
            The newest process; None if the service has ended for good.
        """
        assert self.child is not None, "begin first"
        if self._due is None and self.child.exit_code is not None:
            if stopping or not self._worth_it(self.child, reports):
                return None
            self._plan_restart(self.child, reports)
        elif self._due is not None and stopping:
            return None
        elif self._due is not None and time.monotonic() >= self._due:
            self._due = None
            self.child.kill()  # its children may still hold its sockets
            self.child = self._start()
        return self.child

    def _worth_it(self, child: P, reports: int) -> bool:
        """Whether to restart the service: it crashed, and there were not too many restarts without progress."""
        if child.exit_code in {0, BAD_INPUT} or child.error:
            return False
        self._fruitless = 0 if reports > self._reports_before else self._fruitless
        return self._fruitless < self._max_restarts

    def _plan_restart(self, child: P, reports: int) -> None:
        self._fruitless += 1
        self.restarts += 1
        self._reports_before = reports
        wait = back_off(self._fruitless)
        self._due = time.monotonic() + wait
        self._notice(
            f"{self._role}_restarted",
            f"{NAMES[self._role]} {child.ending}; restarting in {wait:g} s {self._where()}",
            {"pid": child.pid, "how": child.ending, "restarts": self.restarts},
        )
