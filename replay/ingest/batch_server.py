"""Ingest's half of the batches socket, without the socket: parts of batches for every rank or for none.

A part is held after it has been handed out until CONSUMED names it. When a rank's session ends, what it had and what still
waits for any rank returns to the queue's head in order: parts that wait would use up the room that the next cut needs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from oatmill.errors import WireError
from protocol.data.priorities import read_priorities
from protocol.data.run_schema import RunSchema
from protocol.security.users import ANYBODY, UnauthorisedError, User, require
from protocol.wire import messages
from protocol.wire.codec import Buffer, Frames, decode, encode, shortened, to_json
from protocol.wire.deadlines import RETRY_EVERY_S, SLOWEST_LINK_BYTES_S
from replay.ingest.admissions import Admissions
from replay.log.marks import Mark, read_mark
from replay.log.state import Books
from replay.plausible import check_version
from replay.store.assembly import Part

MAX_DEPARTED = 1000
"""Sessions that have ended and are remembered, to know a late HELLO of theirs."""
MAX_PATIENCE = 4
"""A part is handed out again ever more seldom, up to this many times as long as it may be under way."""
MAX_LENT = 4
"""Trained parts whose shared memory a rank may keep; a learner that keeps more gets the next ones through the socket."""


@dataclass(slots=True, eq=False)
class Rank:
    """One rank's session."""

    route: bytes
    token: str
    waiting: deque[Part] = field(default_factory=deque)  # cut, not handed out
    held: deque[Part] = field(default_factory=deque)  # handed out, not consumed
    lent: deque[Part] = field(default_factory=deque)  # consumed, in shared memory that the learner may still look at
    shares: bool = False  # whether it can read this machine's memory
    request: int = -1  # the newest one
    learner_step: int = 0
    answered: Part | None = None  # what the newest request got
    answered_on: bytes = b""  # the connection on which it left
    repeats: int = 0  # of the newest request on that connection
    patience: int = 0  # repeats after which it is answered once more
    welcomed: bool = False
    told_version: int = -1  # the newest policy version that it has told of, together with what it has trained on

    @property
    def asks(self) -> bool:
        """Whether a request is open."""
        return self.request >= 0 and self.answered is None

    def may_get(self, committed: int) -> bool:
        """Whether it asks and a part waits for it whose cut the journal holds."""
        return self.asks and bool(self.waiting) and self.waiting[0].record < committed


@dataclass
class Turned:
    """What a message of the learner's has changed, for ingest to count."""

    trained: list[Part] = field(default_factory=list)
    freed: list[Part] = field(default_factory=list)  # were lent, and their memory may be used again
    returned: list[Part] = field(default_factory=list)  # in the order in which they were cut
    policy_version: int = -1
    joined: messages.BatchHello | None = None  # a new session's
    rewound: bool = False  # by the process that had the session before it: it has decided that what it trained on is bad
    left: list[int] = field(default_factory=list)  # ranks that have said goodbye
    cursor: int | None = None  # a checkpoint holds what was trained on before it
    mark: Mark | None = None  # of the checkpoint that a new session goes on from
    resumed_from: int | None = None  # a new session's; what was trained on under later policy versions is lost with its learner


class BatchServer:
    """All ranks' sessions.

    Args:
        batch_rows: trajectories of one batch over all ranks.
        admissions: who may speak as which rank; None asks nobody (a simulation's peers are honest).
        priorities: whether CONSUMED brings them.

    Attributes:
        schema: the run's; None until the first actor has told it.
        stop: whether the run is to end, as every batch tells.
        policy_version: the newest one that ingest has heard of.
        world: ranks of the learner; 0 before the first has come.
        waiting_rows: fresh trajectories that are cut and not handed out; they count as queued.
        held_rows: fresh trajectories that are handed out and not consumed.
    """

    def __init__(self, batch_rows: int, admissions: Admissions | None = None, *, priorities: bool = False) -> None:
        self._batch_rows, self._admissions, self._priorities = batch_rows, admissions, priorities
        self._ranks: dict[int, Rank] = {}
        self._departed: deque[str] = deque(maxlen=MAX_DEPARTED)
        self._incarnations: dict[int, int] = {}  # the highest of each rank
        self._newest_id = -1  # of the parts that were cut
        self._outgoing: list[tuple[bytes, Frames]] = []
        self._snapshots: dict[int, tuple[bytes, messages.Snapshot]] = {}  # asked for and not answered, by rank
        self.schema: RunSchema | None = None
        self.stop = False
        self.policy_version = -1
        self.world = 0
        self.waiting_rows = 0
        self.held_rows = 0

    def restore(self, books: Books) -> None:
        """Go on where a server that has died was; what was cut is held for ranks that may have it."""
        self.world, self._newest_id = books.world, books.next_batch_id - 1
        for number, (token, incarnation, left) in books.ranks.items():
            self._incarnations[number] = incarnation
            if left:
                self._departed.append(token)
            else:
                self._ranks[number] = Rank(b"", token)

    def hold(self, number: int, part: Part) -> bool:
        """Hold a part that was cut before this server was started; False if there is no such rank any more."""
        rank = self._ranks.get(number)
        if rank is None:
            return False
        rank.held.append(part)
        self.held_rows += part.fresh_rows
        return True

    @property
    def waiting_bytes(self) -> int:
        """What cuts that are not handed out take."""
        return sum(part.payload.nbytes for rank in self._ranks.values() for part in rank.waiting)

    @property
    def wants_cut(self) -> bool:
        """Whether the next batch is to be cut: a rank asks and has none waiting, or none waits for any rank (prefetch).

        Never before all ranks have joined, for a batch is for all or for none.
        """
        if not self.world or len(self._ranks) < self.world:
            return False
        return self.waiting_rows == 0 or any(rank.asks and not rank.waiting for rank in self._ranks.values())

    @property
    def starves(self) -> bool:
        """Whether a rank asks and nothing is cut for it."""
        return len(self._ranks) >= self.world > 0 and any(rank.asks and not rank.waiting for rank in self._ranks.values())

    @property
    def part_rows(self) -> int:
        """Trajectories of one rank's part."""
        return self._batch_rows // self.world

    def shares(self, number: int) -> bool:
        """Whether a rank's next part may lie in shared memory."""
        rank = self._ranks[number]
        return rank.shares and len(rank.lent) < MAX_LENT

    def receive(self, route: bytes, header: Buffer, user: User = ANYBODY, payload: Buffer = b"") -> Turned:
        """Take in one message.

        Raises:
            WireError: if it breaks the protocol, or its sender may not send it.
        """
        message: messages.BatchToIngest = decode(header, messages.BATCH_TO_INGEST)
        self._authorise(route, message, user)
        turned = Turned()
        match message:
            case messages.BatchHello():
                self._hello(route, message, read_mark(payload), turned)
            case messages.Bye():
                self._bye(route, message, turned)
            case messages.Consumed():
                self._consumed(route, message, payload, turned)
            case messages.Get():
                self._get(route, message, turned)
            case messages.Snapshot() | messages.Commit():
                self._checkpoint(route, message, turned)
        return turned

    def _consumed(self, route: bytes, message: messages.Consumed, payload: Buffer, turned: Turned) -> None:
        rank = self._rank(route, message.rank, message.token)
        if rank is not None:
            if memoryview(payload).nbytes:
                self._take_priorities(rank, message.batch_id, payload)
            self._consume(rank, message.batch_id, message.policy_version, turned)

    def _take_priorities(self, rank: Rank, batch_id: int, payload: Buffer) -> None:
        """Of a part that is held; what comes late, or of a part that a server that has died has cut, is of no use any more."""
        if not self._priorities:
            raise WireError("priorities", "expected none, for replay.sampling is not prioritised")
        for part in rank.held:
            if part.batch_id == batch_id and not part.recovered:
                part.priorities = read_priorities(payload, part.rows)

    def _checkpoint(self, route: bytes, message: messages.Snapshot | messages.Commit, turned: Turned) -> None:
        rank = self._rank(route, message.rank, message.token)
        if rank is None:
            return
        if isinstance(message, messages.Commit):
            turned.cursor = message.cursor
            self._outgoing.append((route, encode(message)))
        else:
            self._consume(rank, message.consumed, message.policy_version, turned)
            self._snapshots[message.rank] = (route, message)

    def snapshots_due(self) -> list[tuple[bytes, messages.Snapshot]]:
        """Questions for a snapshot up to which every rank has told what it has trained on; each once."""
        told = min((rank.told_version for rank in self._ranks.values()), default=0)
        due = [number for number, (_, snapshot) in self._snapshots.items() if snapshot.policy_version <= told]
        return [self._snapshots.pop(number) for number in due]

    def answer_snapshot(self, route: bytes, snapshot: messages.Snapshot, values: dict[str, Any]) -> None:
        """Answer one."""
        self._outgoing.append((route, encode(snapshot, to_json(values))))

    def _authorise(self, route: bytes, message: messages.BatchToIngest, user: User) -> None:
        """Turn away whoever is not the learner; after HELLO a session's token proves it."""
        if self._admissions is None:
            return
        try:
            require(user, "learner")
            if isinstance(message, messages.BatchHello):
                self._admissions.check_rank(message.rank, message.incarnation, message.session, user)
        except UnauthorisedError as error:
            self._reject(route, error.reason, error.detail)
            raise

    def _hello(self, route: bytes, hello: messages.BatchHello, mark: Mark | None, turned: Turned) -> None:
        if hello.batch_size != self._batch_rows or hello.world < 1 or hello.batch_size % hello.world:
            detail = f"the run's batch has {self._batch_rows} trajectories; this learner asks for {hello.batch_size}"
            self._reject(route, "batch_size", f"{detail} over {hello.world} ranks, which must divide it")
            return
        if not 0 <= hello.rank < hello.world:
            raise WireError("header_fields", f"expected a rank below {hello.world}, got {hello.rank}")
        # One that was late; letting it in would end its own successor's session.
        if hello.token in self._departed or hello.incarnation < self._incarnations.get(hello.rank, 0):
            self._reject(route, "fenced", f"rank {hello.rank} has left or another process has taken its place")
            return
        known = self._ranks.get(hello.rank)
        if known is not None and known.token == hello.token:
            known.route, known.welcomed, known.shares = route, False, hello.shares
            return
        turned.rewound = hello.incarnation == self._incarnations.get(hello.rank)
        self._incarnations[hello.rank] = hello.incarnation
        turned.joined, turned.resumed_from, turned.mark = hello, hello.resumed_from, mark
        leaving = list(self._ranks) if hello.world != self.world else [hello.rank]
        self._end(leaving, turned)
        self.world = hello.world
        self._ranks[hello.rank] = Rank(route, hello.token, shares=hello.shares)

    def _bye(self, route: bytes, bye: messages.Bye, turned: Turned) -> None:
        turned.left = [number for number, rank in self._ranks.items() if rank.token == bye.token]
        self._end(turned.left, turned)
        self._outgoing.append((route, encode(bye)))

    def _end(self, numbers: Sequence[int], turned: Turned) -> None:
        """End sessions; what these ranks hold returns, and what waits for any rank."""
        returned: list[Part] = []
        for number in numbers:
            rank = self._ranks.pop(number, None)
            self._snapshots.pop(number, None)
            if rank is not None:
                self._departed.append(rank.token)
                returned += [*rank.held, *rank.waiting]
                self.held_rows -= sum(part.fresh_rows for part in rank.held)
        turned.returned = sorted([*returned, *self._unwait()], key=lambda part: part.batch_id)

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

    def _check_cut(self, batch_id: int) -> None:
        """Nobody has trained on a batch that there never was; believing it would count what it is given next as trained."""
        if batch_id > self._newest_id:
            raise WireError("sequence", f"batch {batch_id} was never cut, the last one is {self._newest_id}")

    def _consume(self, rank: Rank, batch_id: int, version: int, turned: Turned) -> None:
        self._check_cut(batch_id)
        check_version(version, self.policy_version)
        turned.policy_version = version
        rank.told_version = max(rank.told_version, version)
        while rank.held and rank.held[0].batch_id <= batch_id:
            part = rank.held.popleft()
            self.held_rows -= part.fresh_rows
            turned.trained.append(part)
            if part.lent:
                rank.lent.append(part)

    def _get(self, route: bytes, get: messages.Get, turned: Turned) -> None:
        rank = self._rank(route, get.rank, get.token)
        if rank is None:
            return
        self._consume(rank, get.consumed, get.policy_version, turned)
        while rank.lent and rank.lent[0].batch_id < get.freed:
            turned.freed.append(rank.lent.popleft())
        self._give_up_recovered(rank, get.received, turned)
        if get.request > rank.request:
            rank.request, rank.learner_step, rank.answered = get.request, get.learner_step, None
        elif get.request == rank.request:  # it asks again
            if rank.answered is None:
                self._outgoing.append((route, encode(messages.BatchPending(rank.request))))
            elif rank.answered in rank.held:
                self._answer_again(rank, rank.answered)

    def _answer_again(self, rank: Rank, part: Part) -> None:
        """Hand the same part out once more if it can be taken for lost.

        On a new connection it is, or if the rank could not read the memory that it lies in. On the same one it is more likely
        to be under way: a rank asks once a second, and a batch may take a slow link many times as long. A copy would be in its
        way.
        """
        rank.repeats += 1
        if rank.route != rank.answered_on or (part.lent and not rank.shares):
            self._send_part(rank, part)
        elif rank.repeats >= rank.patience:
            patience = rank.patience
            self._send_part(rank, part)
            rank.patience = min(2 * patience, MAX_PATIENCE * seconds_of(part))
        else:
            self._outgoing.append((rank.route, encode(messages.BatchPending(rank.request))))

    def _give_up_recovered(self, rank: Rank, received: int, turned: Turned) -> None:
        """What a server that has died has cut, and the rank has not got, will never come: it returns, before what waits."""
        never = [part for part in rank.held if part.recovered and part.batch_id > received]
        for part in never:
            rank.held.remove(part)
            self.held_rows -= part.fresh_rows
        if never:
            turned.returned = sorted([*never, *self._unwait()], key=lambda part: part.batch_id)

    def _unwait(self) -> list[Part]:
        """Take away what waits for any rank."""
        waiting = [part for rank in self._ranks.values() for part in rank.waiting]
        for rank in self._ranks.values():
            rank.waiting.clear()
        self.waiting_rows = 0
        return waiting

    def add(self, parts: Sequence[Part]) -> None:
        """Take over a cut: one part a rank, rank 0's first."""
        self._newest_id = max(self._newest_id, *(part.batch_id for part in parts))
        for number, part in enumerate(parts):
            self._ranks[number].waiting.append(part)
            self.waiting_rows += part.fresh_rows

    def hand_out(self, fleet: dict[str, Any], *, committed: int) -> list[Part]:
        """Answer every rank that asks and for which a part waits.

        Args:
            fleet: what the learner reports beside the batch.
            committed: parts cut in the journal's records before this one may go.

        Returns:
            The parts that went out.
        """
        sent = []
        for rank in self._ranks.values():
            if rank.may_get(committed):
                part = rank.waiting.popleft()
                rank.held.append(part)
                rank.answered = part
                self.waiting_rows -= part.fresh_rows
                self.held_rows += part.fresh_rows
                self._outgoing.append((rank.route, encode(messages.FleetStatus(rank.request), to_json(fleet))))
                self._send_part(rank, part)
                sent.append(part)
        return sent

    def can_hand_out(self, committed: int) -> bool:
        """Whether a rank asks and a part that may go waits for it."""
        return any(rank.may_get(committed) for rank in self._ranks.values())

    def _send_part(self, rank: Rank, part: Part) -> None:
        if not rank.welcomed:
            assert self.schema is not None, "a part was made by it"
            rank.welcomed = True
            welcome = messages.BatchWelcome(rank.token, self._priorities)
            self._outgoing.append((rank.route, encode(welcome, to_json(self.schema.to_dict()))))
        size = part.size
        place = part.place if rank.shares else ""
        part.lent = bool(place)
        header = messages.BatchMessage(
            rank.request, part.batch_id, rank.learner_step, size.trajectories, size.steps, size.finals, self.stop, place
        )
        self._outgoing.append((rank.route, encode(header, b"" if part.lent else part.payload)))
        rank.answered_on, rank.repeats, rank.patience = rank.route, 0, seconds_of(part)

    def outgoing(self) -> list[tuple[bytes, Frames]]:
        """Everything to be sent now."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing


def seconds_of(part: Part) -> int:
    """How long a part may be under way on the slowest link, which is how often a rank repeats its request meanwhile."""
    return ceil(part.payload.nbytes / (SLOWEST_LINK_BYTES_S * RETRY_EVERY_S))
