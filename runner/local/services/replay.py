"""Restarts a run's replay server at the same addresses if it crashes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from oatmill.errors import PeerLostError
from runner.local.launcher import P
from runner.local.services.service import Service
from runner.operator_client import OperatorClient

SILENT_S = 60.0
"""A server that is ready and does not answer for this long is lost."""
READY_WITHIN_S = 300.0
"""A new server has this long until it is ready: a busy node of a cluster may need minutes for its imports."""


class ReplayService(Service[P]):
    """Keeps one replay server running, and repeats earlier requests to a restarted one.

    Args:
        start: starts the server.
        durable: whether the server's log contains all acknowledged data.
        max_restarts: the number of restarts in a row without progress after which the run fails.
        notice: called for each event with its name, a line for the user, and values.
        listens: returns whether the newest server is ready for connections.
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
            where=lambda: "from its log" if durable else "without the data in its memory, which is lost",
            max_restarts=max_restarts,
            notice=notice,
        )
        self._begin, self._listens = start, listens
        self._own: int | None = None
        self._untold = self._was_ready = False
        self._heard = 0.0

    def begin(self, now: float = 0.0) -> P:
        """Start the first server.

        Args:
            now: the supervisor's clock.
        """
        self._heard = now
        self.child = self._begin()
        return self.child

    def _start_again(self) -> P:
        self._untold = True
        return self._begin()

    @property
    def ready(self) -> bool:
        """Whether the server accepts requests."""
        return self._due is None and self._listens()

    def answered(self, now: float) -> None:
        """Note that the server has answered, or that a new one was started."""
        self._heard = now

    def silence(self, now: float) -> str:
        """Why the server counts as lost; empty if it has answered in time. Call it in every turn."""
        if self.ready != self._was_ready:
            self._was_ready, self._heard = self.ready, now
        limit, missed = (SILENT_S, "answered for") if self._was_ready else (READY_WITHIN_S, "become ready within")
        return f"has not {missed} {limit:g} s" if now - self._heard > limit else ""

    def brief(self, hub: OperatorClient, status: Mapping[str, Any], *, stopping: bool) -> Mapping[str, Any]:
        """Read the hub's status.

        A restarted server is told the target number of the run's own actors, and the stop if there was one.

        Args:
            hub: the connection to the hub.
            status: the hub's answer.
            stopping: whether the run was asked to stop.

        Returns:
            The status, updated with what was sent.
        """
        if self._untold and self._own is not None:
            try:
                hub.scale(self._own, own=True)
            except PeerLostError:
                return {**status, "own_actors": self._own}
            status = {**status, "own_actors": self._own}
            self._untold = stopping and not hub.stop()
        self._own = status["own_actors"]
        return status
