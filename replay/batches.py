"""Ingest's half of the batches socket, without the socket: parts of batches for every rank or for none.

A part is held after it has been handed out until CONSUMED names it. When a rank's session ends, what it had and what still
waits for any rank returns to the queue's head in order: parts that wait would use up the room that the next cut needs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from protocol import messages
from protocol.codec import Buffer, Frames, decode, encode, shortened, to_json
from protocol.errors import WireError
from protocol.schemas import RunSchema
from replay.assembly import Part

MAX_DEPARTED = 1000
"""Sessions that have ended and are remembered, to know a late HELLO of theirs."""


@dataclass(slots=True, eq=False)
class Rank:
    """One rank's session."""

    route: bytes
    token: str
    waiting: deque[Part] = field(default_factory=deque)  # cut, not handed out
    held: deque[Part] = field(default_factory=deque)  # handed out, not consumed
    request: int = -1  # the newest one
    learner_step: int = 0
    answered: Part | None = None  # what the newest request got
    welcomed: bool = False

    @property
    def asks(self) -> bool:
        """Whether a request is open."""
        return self.request >= 0 and self.answered is None


@dataclass
class Turned:
    """What a message of the learner's has changed, for ingest to count."""

    trained: list[Part] = field(default_factory=list)
    returned: list[Part] = field(default_factory=list)  # in the order in which they were cut
    policy_version: int = -1


class BatchServer:
    """All ranks' sessions.

    Args:
        batch_rows: trajectories of one batch over all ranks.

    Attributes:
        schema: the run's; None until the first actor has told it.
        stop: whether the run is to end, as every batch tells.
        world: ranks of the learner; 0 before the first has come.
        waiting_rows: fresh trajectories that are cut and not handed out; they count as queued.
        held_rows: fresh trajectories that are handed out and not consumed.
    """

    def __init__(self, batch_rows: int) -> None:
        self._batch_rows = batch_rows
        self._ranks: dict[int, Rank] = {}
        self._departed: deque[str] = deque(maxlen=MAX_DEPARTED)
        self._outgoing: list[tuple[bytes, Frames]] = []
        self.schema: RunSchema | None = None
        self.stop = False
        self.world = 0
        self.waiting_rows = 0
        self.held_rows = 0

    @property
    def wants_cut(self) -> bool:
        """Whether the next batch is to be cut: a rank asks and has none waiting, or none waits for any rank (prefetch).

        Never before all ranks have joined, for a batch is for all or for none.
        """
        if not self.world or len(self._ranks) < self.world:
            return False
        return self.waiting_rows == 0 or any(rank.asks and not rank.waiting for rank in self._ranks.values())

    @property
    def part_rows(self) -> int:
        """Trajectories of one rank's part."""
        return self._batch_rows // self.world

    def receive(self, route: bytes, header: Buffer) -> Turned:
        """Take in one message.

        Raises:
            WireError: if it breaks the protocol.
        """
        message: messages.BatchToIngest = decode(header, messages.BATCH_TO_INGEST)
        turned = Turned()
        match message:
            case messages.BatchHello():
                self._hello(route, message, turned)
            case messages.Bye():
                self._bye(route, message, turned)
            case messages.Consumed():
                rank = self._rank(route, message.rank, message.token)
                if rank is not None:
                    turned.policy_version = message.policy_version
                    self._consume(rank, message.batch_id, turned)
            case messages.Get():
                self._get(route, message, turned)
        return turned

    def _hello(self, route: bytes, hello: messages.BatchHello, turned: Turned) -> None:
        if hello.batch_size != self._batch_rows or hello.world < 1 or hello.batch_size % hello.world:
            detail = f"the run's batch has {self._batch_rows} trajectories; this learner asks for {hello.batch_size}"
            self._reject(route, "batch_size", f"{detail} over {hello.world} ranks, which must divide it")
            return
        if not 0 <= hello.rank < hello.world:
            raise WireError("header_fields", f"expected a rank below {hello.world}, got {hello.rank}")
        if hello.token in self._departed:  # it was late; letting it in would end its own successor's session
            self._reject(route, "fenced", f"rank {hello.rank} has left or another process has taken its place")
            return
        known = self._ranks.get(hello.rank)
        if known is not None and known.token == hello.token:
            known.route, known.welcomed = route, False
            return
        leaving = list(self._ranks) if hello.world != self.world else [hello.rank]
        self._end(leaving, turned)
        self.world = hello.world
        self._ranks[hello.rank] = Rank(route, hello.token)

    def _bye(self, route: bytes, bye: messages.Bye, turned: Turned) -> None:
        self._end([number for number, rank in self._ranks.items() if rank.token == bye.token], turned)
        self._outgoing.append((route, encode(bye)))

    def _end(self, numbers: Sequence[int], turned: Turned) -> None:
        """End sessions; what these ranks hold returns, and what waits for any rank."""
        returned: list[Part] = []
        for number in numbers:
            rank = self._ranks.pop(number, None)
            if rank is not None:
                self._departed.append(rank.token)
                returned += [*rank.held, *rank.waiting]
                self.held_rows -= sum(part.fresh_rows for part in rank.held)
        for rank in self._ranks.values():
            returned += rank.waiting
            rank.waiting.clear()
        self.waiting_rows = 0
        turned.returned = sorted(returned, key=lambda part: part.batch_id)

    def _rank(self, route: bytes, number: int, token: str) -> Rank | None:
        """The session that is named; None, and a REJECT, if another process has taken its place.

        One that is not known yet has its HELLO still to come, for a HELLO goes ahead of every question that is repeated.
        """
        rank = self._ranks.get(number)
        if rank is not None and rank.token == token:
            rank.route = route
            return rank
        if token in self._departed:
            self._reject(route, "fenced", f"rank {number} has left or another process has taken its place")
        return None

    def _reject(self, route: bytes, reason: str, detail: str) -> None:
        self._outgoing.append((route, encode(messages.Reject(reason, shortened(detail)))))

    def _consume(self, rank: Rank, batch_id: int, turned: Turned) -> None:
        while rank.held and rank.held[0].batch_id <= batch_id:
            part = rank.held.popleft()
            self.held_rows -= part.fresh_rows
            turned.trained.append(part)

    def _get(self, route: bytes, get: messages.Get, turned: Turned) -> None:
        rank = self._rank(route, get.rank, get.token)
        if rank is None:
            return
        turned.policy_version = get.policy_version
        self._consume(rank, get.consumed, turned)
        if get.request > rank.request:
            rank.request, rank.learner_step, rank.answered = get.request, get.learner_step, None
        elif get.request == rank.request:  # it asks again
            if rank.answered is None:
                self._outgoing.append((route, encode(messages.BatchPending(rank.request))))
            elif rank.answered in rank.held:
                self._send_part(rank, rank.answered)

    def add(self, parts: Sequence[Part]) -> None:
        """Take over a cut: one part a rank, rank 0's first."""
        for number, part in enumerate(parts):
            self._ranks[number].waiting.append(part)
            self.waiting_rows += part.fresh_rows

    def hand_out(self, fleet: dict[str, Any]) -> list[Part]:
        """Answer every rank that asks and for which a part waits.

        Args:
            fleet: what the learner reports beside the batch.

        Returns:
            The parts that went out.
        """
        sent = []
        for rank in self._ranks.values():
            if rank.asks and rank.waiting:
                part = rank.waiting.popleft()
                rank.held.append(part)
                rank.answered = part
                self.waiting_rows -= part.fresh_rows
                self.held_rows += part.fresh_rows
                self._outgoing.append((rank.route, encode(messages.FleetStatus(rank.request), to_json(fleet))))
                self._send_part(rank, part)
                sent.append(part)
        return sent

    @property
    def can_hand_out(self) -> bool:
        """Whether a rank asks and a part waits for it."""
        return any(rank.asks and rank.waiting for rank in self._ranks.values())

    def _send_part(self, rank: Rank, part: Part) -> None:
        if not rank.welcomed:
            assert self.schema is not None, "a part was made by it"
            rank.welcomed = True
            self._outgoing.append((rank.route, encode(messages.BatchWelcome(rank.token), to_json(self.schema.to_dict()))))
        size = part.size
        header = messages.BatchMessage(
            rank.request, part.batch_id, rank.learner_step, size.trajectories, size.steps, size.finals, self.stop
        )
        self._outgoing.append((rank.route, encode(header, part.payload)))

    def outgoing(self) -> list[tuple[bytes, Frames]]:
        """Everything to be sent now."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing
