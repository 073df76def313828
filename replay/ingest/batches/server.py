"""Ingest's state machine of the batches socket: every batch has one part for each rank.

A rank holds a part from the moment when it is handed out until a CONSUMED message names it. When the
session of a rank ends, the parts that it holds and all parts that wait for any rank return to the front
of the queue, in order. (Waiting parts would use the room that the next batch needs.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from oatmill.errors import WireError
from protocol.data.run_schema import RunSchema
from protocol.security.users import ANYBODY, UnauthorisedError, User, require
from protocol.wire import messages
from protocol.wire.codec import Buffer, Frames, decode, encode, shortened, to_json
from replay.claim_limits import check_version
from replay.ingest.admissions import Admissions
from replay.ingest.batches.learner_rank import LearnerRank, RankChanges, RankWelcome
from replay.log.marks import Mark, read_mark
from replay.log.state import LogState
from replay.store.assembly import Part

MAX_DEPARTED = 1000
"""The number of ended sessions that are remembered, to recognise their late HELLO messages."""


OfRank = messages.Consumed | messages.Get | messages.LogMark | messages.Commit
"""The messages that a rank sends after its HELLO, except BYE."""


class BatchServer:
    """The sessions of all ranks.

    Args:
        batch_rows: the number of trajectories in a batch, over all ranks.
        admissions: decides which process may send messages as which rank; None allows everybody.
        priorities: whether CONSUMED messages carry priorities.
        server: a number that no other ingest process has.

    Attributes:
        schema: the run's schema; None until the first actor has sent it.
        stop: whether the run ends; every batch says so.
        policy_version: the newest policy version that ingest knows.
        world: the number of ranks of the learner; 0 before the first one has joined.
        waiting_rows: fresh trajectories in parts that are cut but not handed out; they count as queued.
    """

    def __init__(
        self, batch_rows: int, admissions: Admissions | None = None, *, priorities: bool = False, server: int = 0
    ) -> None:
        self._batch_rows, self._admissions, self._priorities, self._server = batch_rows, admissions, priorities, server
        self._ranks: dict[int, LearnerRank] = {}
        self._departed: deque[str] = deque(maxlen=MAX_DEPARTED)
        self._incarnations: dict[int, int] = {}  # by rank, the highest incarnation
        self._newest_id = -1  # the batch id of the newest part
        self._outgoing: list[tuple[bytes, Frames]] = []
        self.schema: RunSchema | None = None
        self.stop = False
        self.policy_version = -1
        self.world = 0
        self.waiting_rows = 0

    def restore(self, state: LogState) -> None:
        """Continue where an earlier server stopped. Its ranks keep the parts that they may have received."""
        self.world, self._newest_id = state.world, state.next_batch_id - 1
        for number, (token, incarnation, left) in state.ranks.items():
            self._incarnations[number] = incarnation
            if left:
                self._departed.append(token)
            else:
                self._ranks[number] = LearnerRank(b"", token, self._outgoing, self._server)

    def hold(self, number: int, part: Part) -> bool:
        """Give a rank a part that an earlier server cut for it; False if the rank is gone."""
        rank = self._ranks.get(number)
        if rank is None:
            return False
        rank.held.append(part)
        return True

    @property
    def held_rows(self) -> int:
        """The number of fresh trajectories that are handed out and not consumed."""
        return sum(rank.held_rows for rank in self._ranks.values())

    @property
    def waiting_bytes(self) -> int:
        """The number of bytes in parts that are cut and not handed out."""
        return sum(part.payload.nbytes for rank in self._ranks.values() for part in rank.waiting)

    @property
    def complete(self) -> bool:
        """Whether all ranks have joined. No batch is cut before that, because it is for all ranks."""
        return len(self._ranks) >= self.world > 0

    @property
    def starves(self) -> bool:
        """Whether a rank has an open request and no part waits for it."""
        return self.complete and any(rank.starves for rank in self._ranks.values())

    @property
    def wants_cut(self) -> bool:
        """Whether to cut the next batch: a rank waits for it, or no part waits for any rank (prefetch)."""
        return self.complete and (self.waiting_rows == 0 or self.starves)

    @property
    def part_rows(self) -> int:
        """The number of trajectories in one rank's part."""
        return self._batch_rows // self.world

    def shares(self, number: int) -> bool:
        """Whether a rank's next part may lie in shared memory."""
        return self._ranks[number].may_share

    def receive(self, route: bytes, header: Buffer, user: User = ANYBODY, payload: Buffer = b"") -> RankChanges:
        """Handle one message.

        Raises:
            WireError: if it breaks the protocol, or its sender may not send it.
        """
        message: messages.BatchToIngest = decode(header, messages.BATCH_TO_INGEST)
        try:
            check_sender(message, user, self._admissions)
        except UnauthorisedError as error:
            self._reject(route, error.reason, error.detail)
            raise
        changes = RankChanges()
        match message:
            case messages.BatchHello():
                self._hello(route, message, read_mark(payload), changes)
            case messages.Bye():
                self._bye(route, message, changes)
            case _:
                rank = self._rank(route, message.rank, message.token)
                if rank is not None:
                    self._take(rank, message, payload, changes)
        return changes

    def _take(self, rank: LearnerRank, message: OfRank, payload: Buffer, changes: RankChanges) -> None:
        match message:
            case messages.Consumed():
                if memoryview(payload).nbytes:
                    self._take_priorities(rank, message.batch_id, payload)
                self._consume(rank, message.batch_id, message.policy_version, changes)
            case messages.Get():
                self._get(rank, message, changes)
            case messages.Commit():
                changes.cursor = message.cursor
                self._outgoing.append((rank.route, encode(message)))
            case messages.LogMark():
                self._consume(rank, message.consumed, message.policy_version, changes)
                rank.mark_asked = (rank.route, message)

    def _take_priorities(self, rank: LearnerRank, batch_id: int, payload: Buffer) -> None:
        if not self._priorities:
            raise WireError("priorities", "expected no priorities, because replay.sampling is not prioritised")
        rank.take_priorities(batch_id, payload)

    def marks_due(self) -> list[tuple[bytes, messages.LogMark]]:
        """Return the questions for a mark that can be answered: all ranks have reported their training."""
        told = min((rank.told_version for rank in self._ranks.values()), default=0)
        return [due for rank in self._ranks.values() if (due := rank.take_mark_question(told)) is not None]

    def answer_mark(self, route: bytes, question: messages.LogMark, values: dict[str, Any]) -> None:
        """Answer a question for a mark."""
        self._outgoing.append((route, encode(question, to_json(values))))

    def _hello(self, route: bytes, hello: messages.BatchHello, mark: Mark | None, changes: RankChanges) -> None:
        detail = check_world(hello, self._batch_rows)
        if detail:
            self._reject(route, "batch_size", detail)
            return
        # This HELLO arrived late. Accepting it would end the session of the process that came after it.
        if hello.token in self._departed or hello.incarnation < self._incarnations.get(hello.rank, 0):
            self._reject(route, "fenced", f"rank {hello.rank} has left or another process has taken its place")
            return
        known = self._ranks.get(hello.rank)
        if known is not None and known.token == hello.token:
            known.reconnect(route, shares=hello.shares)
            return
        changes.rewound = hello.incarnation == self._incarnations.get(hello.rank)
        self._incarnations[hello.rank] = hello.incarnation
        changes.joined, changes.resumed_from, changes.mark = hello, hello.resumed_from, mark
        leaving = list(self._ranks) if hello.world != self.world else [hello.rank]
        self._end(leaving, changes)
        self.world = hello.world
        self._ranks[hello.rank] = LearnerRank(route, hello.token, self._outgoing, self._server, shares=hello.shares)

    def _bye(self, route: bytes, bye: messages.Bye, changes: RankChanges) -> None:
        changes.left = [number for number, rank in self._ranks.items() if rank.token == bye.token]
        self._end(changes.left, changes)
        self._outgoing.append((route, encode(bye)))

    def _end(self, numbers: Sequence[int], changes: RankChanges) -> None:
        """End sessions. The parts that these ranks hold, and all that wait, return to the queue."""
        returned: list[Part] = []
        for number in numbers:
            rank = self._ranks.pop(number, None)
            if rank is not None:
                self._departed.append(rank.token)
                returned += [*rank.held, *rank.waiting]
        changes.returned = sorted([*returned, *self._unwait()], key=lambda part: part.batch_id)

    def _rank(self, route: bytes, number: int, token: str) -> LearnerRank | None:
        """Return the session that a message names, or send REJECT if another process has replaced it.

        An unknown session is not rejected, because its HELLO is still on the way: a rank sends HELLO before
        every repeated question.
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

    def _consume(self, rank: LearnerRank, batch_id: int, version: int, changes: RankChanges) -> None:
        if batch_id > self._newest_id:  # otherwise the next batch would count as trained
            raise WireError("sequence", f"batch {batch_id} does not exist, the newest one is {self._newest_id}")
        check_version(version, self.policy_version)
        rank.consume(batch_id, version, changes)

    def _get(self, rank: LearnerRank, get: messages.Get, changes: RankChanges) -> None:
        self._consume(rank, get.consumed, get.policy_version, changes)
        changes.freed += rank.free(get.freed)
        if get.server != self._server:  # batches that were handed out since then may still arrive
            rank.say_pending(get.request)
            return
        never = rank.give_up(get)
        if never:  # they return to the queue, in front of the waiting parts
            changes.returned = sorted([*never, *self._unwait()], key=lambda part: part.batch_id)
        rank.ask(get, self._welcome(), stop=self.stop)

    def _unwait(self) -> list[Part]:
        """Remove and return the parts that wait for any rank."""
        waiting = [part for rank in self._ranks.values() for part in rank.waiting]
        for rank in self._ranks.values():
            rank.waiting.clear()
        self.waiting_rows = 0
        return waiting

    def add(self, parts: Sequence[Part]) -> None:
        """Add the parts of a batch, one for each rank; the part of rank 0 comes first."""
        self._newest_id = max(self._newest_id, *(part.batch_id for part in parts))
        for number, part in enumerate(parts):
            self._ranks[number].waiting.append(part)
            self.waiting_rows += part.fresh_rows

    def hand_out(self, fleet: dict[str, Any], *, committed: int) -> list[Part]:
        """Hand the waiting parts to the ranks that have an open request; returns these parts.

        Args:
            fleet: statistics that the learner reports with the batch.
            committed: a part may be handed out only if the record of its cut has a lower number.
        """
        asking = [rank for rank in self._ranks.values() if rank.may_get(committed)]
        sent = [rank.hand_out(fleet, self._welcome(), stop=self.stop) for rank in asking]
        self.waiting_rows -= sum(part.fresh_rows for part in sent)
        return sent

    def _welcome(self) -> RankWelcome | None:
        return None if self.schema is None else RankWelcome(self.schema, self._priorities)

    def can_hand_out(self, committed: int) -> bool:
        """Whether a rank has an open request, and a part that may be handed out waits for it."""
        return any(rank.may_get(committed) for rank in self._ranks.values())

    def outgoing(self) -> list[tuple[bytes, Frames]]:
        """Return everything to send now."""
        outgoing = self._outgoing.copy()
        self._outgoing.clear()
        return outgoing


def check_world(hello: messages.BatchHello, batch_rows: int) -> str:
    """Say why a rank's batch size or number of ranks does not fit the run; empty if both fit.

    Raises:
        WireError: `header_fields` if there is no such rank.
    """
    if hello.batch_size != batch_rows or hello.world < 1 or hello.batch_size % hello.world:
        detail = f"the run's batch has {batch_rows} trajectories; this learner asks for {hello.batch_size}"
        return f"{detail} over {hello.world} ranks, which must divide it"
    if not 0 <= hello.rank < hello.world:
        raise WireError("header_fields", f"expected a rank below {hello.world}, got {hello.rank}")
    return ""


def check_sender(message: messages.BatchToIngest, user: User, admissions: Admissions | None) -> None:
    """Check that a message comes from the learner. After HELLO, the token of its session proves that.

    Raises:
        UnauthorisedError: if the message is from someone else.
    """
    if admissions is None:
        return
    require(user, "learner")
    if isinstance(message, messages.BatchHello):
        admissions.check_rank(message.rank, message.incarnation, message.session, user)
