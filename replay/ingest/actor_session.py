"""One incarnation of one actor, as ingest sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from protocol.wire import messages
from protocol.wire.codec import Buffer
from replay.ingest.pace import Pace


@dataclass(slots=True, eq=False)
class Session:
    """One incarnation of one actor."""

    actor_id: int
    incarnation: int
    rows: int  # of every block
    route: bytes
    next: int = 0  # the first sequence number that is not stored
    held: int = 0  # the first one that may not be acknowledged yet
    credit: int = 0
    waits: bool = False
    since: float = 0.0  # when it was given its credit, or sent its last block if that was later
    pace: Pace = field(default_factory=Pace)
    slow: bool = False  # it usually takes far longer than the fleet
    late: bool = False  # so is what it holds now
    silent: bool = False  # it holds credit and has sent nothing for very long
    serial: int = 0
    produced: int = 0
    evicted: int = 0
    rejected: int = 0
    strikes: int = 0
    alive: bool = True  # the hub hears its heartbeats
    ended: bool = False  # it said BYE, was fenced or was turned away
    last_data: float = 0.0
    gap: tuple[int, float] = (-1, 0.0)  # the last gap that it was told of, and when

    @property
    def open(self) -> bool:
        """Whether it may hold credit."""
        return self.alive and not self.ended

    @property
    def missing(self) -> int:
        """Trajectories that it produced, did not drop, and that are not stored."""
        return max(0, self.produced - self.evicted - self.next)

    def report(self, produced: int, evicted: int) -> None:
        """Take in cumulative counts."""
        self.evicted = max(self.evicted, evicted)
        self.produced = max(self.produced, produced, self.next + self.evicted)


class Arrival(NamedTuple):
    """A block that is next in its sequence and may be stored."""

    session: Session
    message: messages.Data
    payload: Buffer
