"""Operators' questions about the run that wait for ingest's newest numbers."""

from __future__ import annotations

from dataclasses import dataclass

REPORT_WITHIN_S = 1.0
"""A question waits this long for ingest's next report. After that, it is answered from the last
report."""
MAX_ASKED = 256
"""The number of questions that may wait. A further one is dropped, and its sender asks again after
a second."""


@dataclass(frozen=True)
class StatusQuestion:
    """A question that waits for ingest's newest report."""

    route: bytes
    request: int
    report: int  # the number of the report that answers it
    deadline: float


class Questions:
    """All questions that wait.

    Attributes:
        report: number of the report that ingest should send next.
    """

    def __init__(self) -> None:
        self._waiting: list[StatusQuestion] = []
        self.report = 0

    def add(self, route: bytes, request: int, now: float) -> None:
        """Add a question, unless it already waits.

        Args:
            route: the connection that it arrived on.
            request: its number.
            now: seconds of the monotonic clock.
        """
        known = any(asked.route == route and asked.request == request for asked in self._waiting)
        if not known and len(self._waiting) < MAX_ASKED:
            self.report += 1
            self._waiting.append(StatusQuestion(route, request, self.report, now + REPORT_WITHIN_S))

    def take_answered(self, report: int) -> list[StatusQuestion]:
        """Remove and return the questions that the report with this number answers."""
        return self._take([asked for asked in self._waiting if asked.report <= report])

    def take_overdue(self, now: float) -> list[StatusQuestion]:
        """Remove and return the questions that have waited too long."""
        return self._take([asked for asked in self._waiting if now >= asked.deadline])

    def _take(self, taken: list[StatusQuestion]) -> list[StatusQuestion]:
        for asked in taken:
            self._waiting.remove(asked)
        return taken
