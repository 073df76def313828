"""The driver's objects for the processes of a run on Ray. No call waits longer than a few seconds for another node."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayError

from deploy.engines.ray_process import Looked
from oatmill.process.awake_clock import AwakeClock
from oatmill.process.exit_codes import BAD_INPUT

LOOK_EVERY_S = 0.5
SILENT_S = 60.0
"""A process counts as lost after its node has not answered for this long."""
ANSWER_WITHIN_S = 3.0
PLACED_WITHIN_S = 120.0
SETTLE_S = 1.0
"""If one rank's failure makes others fail, all of them end within this time."""
LOST = 1
"""The exit code of a lost process."""


class RayProcess:
    """One process on a node of the cluster.

    Its state is requested in the background. Every property returns the newest answer without waiting.

    Args:
        role: replay, learner or actor.
        number: its rank or the actor's number.
        handle: Ray's handle of its `RoleProcess`.
        started: Ray's reference to the call that starts it.
        hint: returns what the user can do if the process is lost; None if it is restarted on another node.
    """

    def __init__(
        self, role: str, number: int, handle: Any, started: Any, *, hint: Callable[[], str | None] = lambda: None
    ) -> None:
        self.role, self.number, self.handle = role, number, handle
        self.looked: Looked | None = None
        self._started, self._hint = started, hint
        self._clock = AwakeClock()
        self._asked: Any = None
        self._ask_at, self._heard = 0.0, 0.0
        self._lost = ""
        self.reaped = False

    @property
    def name(self) -> str:
        """See Process."""
        return self.role if self.role == "replay" else f"{self.role} {self.number}"

    @property
    def pid(self) -> int:
        """See Process."""
        return self.looked.pid if self.looked else 0

    @property
    def log(self) -> Path:
        """See Process."""
        return Path(self.looked.log if self.looked else f"logs/{self.role}-{self.number}.log")

    @property
    def lost(self) -> bool:
        """Whether its node or its Ray worker is gone or does not answer."""
        return bool(self._lost)

    @property
    def exit_code(self) -> int | None:
        """See Process."""
        if not self._lost and (self.looked is None or self.looked.exit_code is None):
            self._look()
        if self._lost:
            return LOST
        return self.looked.exit_code if self.looked else None

    @property
    def ending(self) -> str:
        """See Process."""
        return self._lost or (self.looked.ending if self.looked else "")

    @property
    def error(self) -> str | None:
        """See Process."""
        if self._lost:
            return self._hint()
        return self.looked.error if self.looked else None

    @property
    def failure(self) -> str:
        """See Process."""
        if self._lost:
            return self._hint() or f"{self.name} {self._lost}"
        node = f" on {self.looked.node}" if self.looked else ""
        error = f": {self.error}" if self.error else ""
        return f"the {self.name} process{node} {self.ending}{error}; its log is {self.log}"

    def last_lines(self, count: int) -> list[str]:
        """See Process."""
        if self._lost:
            return []
        try:
            lines: list[str] = ray.get(self.handle.last_lines.remote(count), timeout=ANSWER_WITHIN_S)
        except RayError:
            return []
        return lines

    def terminate(self) -> None:
        """See Process."""
        self.handle.terminate.remote()

    def kill(self) -> None:
        """See Process."""
        end_all([self], grace_s=0.0)
        if self.looked is None or self.looked.exit_code is None:
            self._lose("was killed by the supervisor")

    def _look(self) -> None:
        """Read the answer if it has arrived, and ask again every `LOOK_EVERY_S` seconds."""
        now = self._clock.now()
        if self._asked is None:
            if now < self._ask_at:
                return
            self._asked, self._ask_at = self.handle.look.remote(), now + LOOK_EVERY_S
        if not ray.wait([self._asked], timeout=0)[0]:
            if self.looked is not None and now - self._heard > SILENT_S:
                self._lose(f"has not answered for {SILENT_S:g} s")
            return
        asked, self._asked = self._asked, None
        try:
            looked: Looked = ray.get(asked)
            if self.looked is None:
                ray.get(self._started)  # the start call runs before the first look() and may have failed
            self.looked, self._heard = looked, now
        except ActorUnavailableError:  # may be temporary; if the process is lost, a later call says so
            return
        except RayError as error:
            self._lose(f"was lost with its node or its Ray worker ({reason_of(error)})")

    def _lose(self, why: str) -> None:
        self._lost = self._lost or why


class RayLearner:
    """All ranks of the learner, which start and end together.

    Args:
        ranks: the ranks in order.
        no_room: the error message if Ray does not place them in time.
    """

    role, number, name = "learner", 0, "learner"

    def __init__(self, ranks: Sequence[RayProcess], no_room: str) -> None:
        self.ranks, self._no_room = ranks, no_room
        self._clock = AwakeClock()
        self._placed_by = self._clock.now() + PLACED_WITHIN_S
        self._failed_at: float | None = None
        self._placed = False

    @property
    def exit_code(self) -> int | None:
        """0 if all ranks ended with 0; the exit code of the rank that failed first; None while no rank has failed."""
        codes, now = [rank.exit_code for rank in self.ranks], self._clock.now()
        self._placed = self._placed or all(rank.looked is not None for rank in self.ranks)
        if any(codes):
            self._failed_at = now if self._failed_at is None else self._failed_at
            return self._culprit.exit_code if now - self._failed_at >= SETTLE_S else None
        if all(code == 0 for code in codes):
            return 0
        return LOST if self._has_no_room(now) else None

    @property
    def pid(self) -> int:
        """The process id of rank 0."""
        return self.ranks[0].pid

    @property
    def log(self) -> Path:
        """See Process."""
        return self._culprit.log

    @property
    def ending(self) -> str:
        """See Process."""
        rank = self._culprit
        return f"{rank.ending} (rank {rank.number})" if rank.ending else "was not placed"

    @property
    def error(self) -> str | None:
        """See Process."""
        return self._no_room if self._has_no_room(self._clock.now()) else self._culprit.error

    @property
    def failure(self) -> str:
        """See Process."""
        return self._no_room if self._has_no_room(self._clock.now()) else self._culprit.failure

    def last_lines(self, count: int) -> list[str]:
        """See Process."""
        return self._culprit.last_lines(count)

    def terminate(self) -> None:
        """See Process."""
        for rank in self.ranks:
            rank.terminate()

    def kill(self) -> None:
        """See Process."""
        end_all(self.ranks, grace_s=0.0)
        for rank in self.ranks:
            rank.kill()

    def _has_no_room(self, now: float) -> bool:
        return not self._placed and now > self._placed_by and not any(rank.exit_code for rank in self.ranks)

    @property
    def _culprit(self) -> RayProcess:
        """The rank that caused the failure of the others: first a lost one, then a killed one, then one with bad input."""

        def order(rank: RayProcess) -> tuple[bool, bool, bool, bool, int]:
            code = rank.exit_code
            return not rank.lost, not code, code is None or code >= 0, code != BAD_INPUT, rank.number

        return min(self.ranks, key=order)


def end_all(processes: Iterable[RayProcess], *, grace_s: float) -> None:
    """Ask processes to end, kill those that still run after `grace_s` seconds, and free their resources on the nodes."""
    left = [process for process in processes if not process.reaped]
    asked = [process.handle.leave.remote(grace_s) for process in left if not process.lost]
    if asked:
        with contextlib.suppress(RayError):
            ray.wait(asked, num_returns=len(asked), timeout=grace_s + ANSWER_WITHIN_S)
    for process in left:
        process.reaped = True
        with contextlib.suppress(RayError):
            ray.kill(process.handle, no_restart=True)


def reason_of(error: BaseException) -> str:
    """The last line of Ray's error message, without the full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__
