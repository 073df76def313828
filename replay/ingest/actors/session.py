"""The session of one incarnation of one actor in ingest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from protocol.wire import messages
from protocol.wire.codec import Buffer
from replay.ingest.actors.pace import Pace
from replay.log.state import ActorAccount


@dataclass(slots=True, eq=False)
class ActorSession:
    """One incarnation of one actor: its account in the log, and state that only this process needs."""

    actor_id: int
    account: ActorAccount  # changed only by the journal's records
    route: bytes
    held: int = 0  # the first sequence number that may not be acknowledged yet
    credit: int = 0
    waits: bool = False  # whether it waits in line for credit
    since: float = 0.0  # when it got its credit or sent its last block, whichever was later
    pace: Pace = field(default_factory=Pace)
    slow: bool = False  # whether it usually takes far longer than the fleet
    late: bool = False  # whether its current block takes far longer
    silent: bool = False  # whether it has credit and has sent nothing for very long
    serial: int = 0  # the number of the last ACK or WELCOME to it
    strikes: int = 0  # the number of its bad messages
    alive: bool = True  # whether the hub receives its heartbeats
    gap: tuple[int, float] = (-1, 0.0)  # the last gap that was reported to it, and when

    @property
    def incarnation(self) -> int:
        """The number of times that this actor was restarted."""
        return self.account.incarnation

    @property
    def rows(self) -> int:
        """The number of trajectories in each of its blocks."""
        return self.account.rows

    @property
    def next(self) -> int:
        """The first sequence number that is not stored."""
        return self.account.next

    @property
    def ended(self) -> bool:
        """Whether it sent BYE, was replaced or was rejected."""
        return self.account.ended

    @property
    def open(self) -> bool:
        """Whether it may hold credit."""
        return self.alive and not self.account.ended


class Arrival(NamedTuple):
    """A block that has the next sequence number and may be stored."""

    session: ActorSession
    message: messages.Data
    payload: Buffer
