"""A service of a local run, the replay server or the learner: started again when it dies, given up when that leads nowhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from oatmill.process.exit_codes import BAD_INPUT
from runner.local.back_off import back_off
from runner.local.child import Child

NAMES = {"replay": "the replay server", "learner": "the learner"}


class ServicePost:
    """Keeps one service at work.

    One that ends by itself with a line that says why has decided so, and is not started again; one that was killed or broke
    down is, as long as the run gets further each time.

    Args:
        role: `replay` or `learner`.
        start: starts it once more.
        where: says from where it goes on, in words.
        max_restarts: restarts in a row without a learner step in between before it is given up.
        notice: is told of what happens: an event's name, a line for people, and values.

    Attributes:
        child: its newest process.
        restarts: how often it was started again, in all.
    """

    def __init__(
        self,
        role: str,
        start: Callable[[], Child],
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
        self.child: Child | None = None

    def turn(self, *, reports: int, stopping: bool) -> Child | None:
        """Look after it once.

        Args:
            reports: learner steps that the run has reported so far; more of them are progress.
            stopping: whether the run is to end, so that nothing is started any more.

        Returns:
            Its newest process; None if it has ended for good.
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
            self.child.kill()  # what it had started may still hold its sockets
            self.child = self._start()
        return self.child

    def _worth_it(self, child: Child, reports: int) -> bool:
        """Whether to start it again: nothing else decided that it ends, and the run got further than the time before."""
        if child.exit_code in {0, BAD_INPUT} or child.error:
            return False
        self._fruitless = 0 if reports > self._reports_before else self._fruitless
        return self._fruitless < self._max_restarts

    def _plan_restart(self, child: Child, reports: int) -> None:
        self._fruitless += 1
        self.restarts += 1
        self._reports_before = reports
        wait = back_off(self._fruitless)
        self._due = time.monotonic() + wait
        self._notice(
            f"{self._role}_restarted",
            f"{NAMES[self._role]} {child.ending}; it is started again in {wait:g} s {self._where()}",
            {"pid": child.pid, "how": child.ending, "restarts": self.restarts},
        )
