"""One incarnation of one actor, as ingest sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from protocol.wire import messages
from protocol.wire.codec import Buffer
from replay.ingest.pace import Pace
from replay.log.state import ActorAccount


@dataclass(slots=True, eq=False)
class ActorSession:
    """One incarnation of one actor: what the log knows of it, and what only this process needs."""

    actor_id: int
    account: ActorAccount  # changed by the journal's records
    route: bytes
    held: int = 0  # the first sequence number that may not be acknowledged yet
    credit: int = 0
    waits: bool = False
    since: float = 0.0  # when it was given its credit, or sent its last block if that was later
    pace: Pace = field(default_factory=Pace)
    slow: bool = False  # it usually takes far longer than the fleet
    late: bool = False  # its present block takes far longer, too
    silent: bool = False  # it holds credit and has sent nothing for very long
    serial: int = 0
    strikes: int = 0
    alive: bool = True  # the hub hears its heartbeats
    gap: tuple[int, float] = (-1, 0.0)  # the last gap that it was told of, and when

    @property
    def incarnation(self) -> int:
        """Number of times that this actor was started, from 0."""
        return self.account.incarnation

    @property
    def rows(self) -> int:
        """Trajectories in each of its blocks."""
        return self.account.rows

    @property
    def next(self) -> int:
        """The first sequence number that is not stored."""
        return self.account.next

    @property
    def ended(self) -> bool:
        """Whether it said BYE, was fenced or was turned away."""
        return self.account.ended

    @property
    def open(self) -> bool:
        """Whether it may hold credit."""
        return self.alive and not self.account.ended


class Arrival(NamedTuple):
    """A block that is next in its sequence and may be stored."""

    session: ActorSession
    message: messages.Data
    payload: Buffer
