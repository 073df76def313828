"""The replay server's place in a local run: both of its processes, started again at the same addresses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from oatmill.errors import PeerLostError
from runner.local.child import Child
from runner.local.service import ServicePost
from runner.operator_client import OperatorClient


class ReplayPost(ServicePost):
    """Keeps one replay server at work, and tells a new one what only its predecessor was told.

    Args:
        start: starts it.
        durable: whether its log holds all that it has acknowledged.
        max_restarts: restarts in a row without a learner step in between before it is given up.
        notice: is told of what happens: an event's name, a line for people, and values.
        endpoint: the file by which it says that it is ready.
    """

    def __init__(
        self,
        start: Callable[[], Child],
        *,
        durable: bool,
        max_restarts: int,
        notice: Callable[[str, str, Mapping[str, Any]], None],
        endpoint: Path,
    ) -> None:
        super().__init__(
            "replay",
            self._start_again,
            where=lambda: "from its log" if durable else "and what waited in its memory is lost",
            max_restarts=max_restarts,
            notice=notice,
        )
        self._begin, self._endpoint = start, endpoint
        self._desired: int | None = None
        self._untold = False

    def begin(self) -> Child:
        """Start the first one."""
        self.child = self._begin()
        return self.child

    def _start_again(self) -> Child:
        self._endpoint.unlink(missing_ok=True)
        self._untold = True
        return self._begin()

    @property
    def ready(self) -> bool:
        """Whether it has said that it can be spoken to."""
        return self._due is None and self._endpoint.exists()

    def brief(self, hub: OperatorClient, status: Mapping[str, Any], *, stopping: bool) -> Mapping[str, Any]:
        """Take in how the run stands; a new server is first told how many actors there shall be, and whether to stop.

        Args:
            hub: the line to it.
            status: its answer.
            stopping: whether the run has been asked to stop.

        Returns:
            The answer, corrected by what it has been told.
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
