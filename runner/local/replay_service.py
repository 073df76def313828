"""The replay server of a run: both of its processes, restarted at the same addresses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from oatmill.errors import PeerLostError
from runner.local.launcher import P
from runner.local.service import Service
from runner.operator_client import OperatorClient


class ReplayService(Service[P]):
    """Keeps one replay server running, and tells a new one what only the one before it was told.

    Args:
        start: starts it.
        durable: whether its log holds everything that it has acknowledged.
        max_restarts: restarts in a row without a learner step in between before it is given up.
        notice: is told what happens: an event's name, a line for people, and values.
        listens: whether the newest server is ready for connections.
    """

    def __init__(
        self,
        start: Callable[[], P],
        *,
        durable: bool,
        max_restarts: int,
        notice: Callable[[str, str, Mapping[str, Any]], None],
        listens: Callable[[], bool],
    ) -> None:
        super().__init__(
            "replay",
            self._start_again,
            where=lambda: "from its log" if durable else "and what waited in its memory is lost",
            max_restarts=max_restarts,
            notice=notice,
        )
        self._begin, self._listens = start, listens
        self._desired: int | None = None
        self._untold = False

    def begin(self) -> P:
        """Start the first one."""
        self.child = self._begin()
        return self.child

    def _start_again(self) -> P:
        self._untold = True
        return self._begin()

    @property
    def ready(self) -> bool:
        """Whether it can be asked something."""
        return self._due is None and self._listens()

    def brief(self, hub: OperatorClient, status: Mapping[str, Any], *, stopping: bool) -> Mapping[str, Any]:
        """Take in the status of the run. A new server is first told the target number of actors, and whether to stop.

        Args:
            hub: the connection to it.
            status: its answer.
            stopping: whether the run was asked to stop.

        Returns:
            The answer, corrected by what the server was told.
        """
        if self._untold and self._desired is not None:
            try:
                hub.scale(self._desired)
            except PeerLostError:
                return {**status, "desired_actors": self._desired}
            status = {**status, "desired_actors": self._desired}
            self._untold = stopping and not hub.stop()
        self._desired = status["desired_actors"]
        return status
