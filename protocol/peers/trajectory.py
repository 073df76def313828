"""The state machine of an actor on the data socket: what to send, what to keep, and what to send again.

A block gets its sequence number when it is first sent, so a block that `drop_oldest` drops leaves
no gap. A block is kept until an ACK covers it. After a WELCOME, or an ACK with `resend`, all kept
blocks are sent again.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from oatmill.errors import WireError
from protocol.data.run_schema import RunSchema
from protocol.data.trajectory import BlockSize, TrajectoryBlock
from protocol.peers.packing import Packer
from protocol.wire import messages
from protocol.wire.codec import Buffer, Frames, decode, encode, to_json
from protocol.wire.deadlines import ANSWER_WITHIN_S, HEARTBEAT_EVERY_S, LOST_AFTER_S, RETRY_EVERY_S, answer_within_s

WhenFull = Literal["block", "drop_oldest"]

MAX_WAITING = 16
"""With `drop_oldest`, this many blocks may wait unsent. Beyond that, the oldest is dropped."""


@dataclass(slots=True)
class _Kept:
    """A packed block, perhaps compressed, that is not acknowledged yet."""

    payload: memoryview
    size: BlockSize
    policy_version: int
    collected_at: float
    counters: dict[str, float]
    first: int = -1  # its first sequence number, once it was sent

    @property
    def rows(self) -> int:
        """The number of trajectories."""
        return self.size.trajectories

    def header(self, sender: tuple[int, int, str], produced: int, evicted: int, session: str) -> messages.Data:
        """Return the message that carries the block.

        Args:
            sender: actor id, incarnation and identity of the run's schema.
            produced: the number of trajectories that this incarnation has produced.
            evicted: the number of trajectories that it has dropped unsent.
            session: the session's secret.
        """
        size = self.size
        return messages.Data(
            *sender,
            self.first,
            size.trajectories,
            size.steps,
            size.finals,
            size.episodes,
            self.policy_version,
            self.collected_at,
            produced,
            evicted,
            self.counters,
            session,
        )


class _Servers:
    """Knows which ingest process is the present one.

    A new one gets a HELLO first. Messages from earlier ones are outdated.
    """

    def __init__(self) -> None:
        self._present: int | None = None
        self._past: set[int] = set()

    def is_past(self, server: int) -> bool:
        """Whether a newer server has replaced this one."""
        return server in self._past

    def is_present(self, server: int) -> bool:
        """Whether this server sent the newest WELCOME."""
        return server == self._present

    def welcomed_by(self, server: int) -> None:
        """Make this server the present one."""
        if self._present is not None:
            self._past.add(self._present)
        self._present = server


class TrajectorySenderPeer:
    """One actor that sends trajectories to ingest.

    Attributes:
        produced: the number of trajectories offered so far.
        evicted: the number of trajectories dropped unsent so far.
        newest_version: the newest policy version that ingest has reported; -1 before that.
        forgotten: trajectories that an earlier server acknowledged and this one does not have.
        refusal: the reason why ingest rejected this actor, as (reason, detail); None if it did not.
        said_goodbye: whether ingest has answered the BYE.
    """

    def __init__(
        self,
        *,
        actor_id: int,
        incarnation: int,
        schema: RunSchema,
        rows: int,
        when_full: WhenFull,
        session: str = "",
        compress: bool = False,
    ) -> None:
        self._session = session
        self._actor, self._incarnation = (actor_id, incarnation), incarnation
        self._schema, self._rows = schema, rows
        self._drops = when_full == "drop_oldest"
        self._packer = Packer(schema.trajectory, compress=compress)
        self._waiting: deque[_Kept] = deque()  # not sent yet
        self._in_flight: deque[_Kept] = deque()  # sent, not acknowledged
        self._cursor = 0  # the number of entries of _in_flight that were sent since they all had to be sent again
        self._sequence = 0  # the sequence number of the next new trajectory
        self._acknowledged = 0  # the sequence number that ingest expects next
        self._limit = 0  # the first sequence number that credit does not cover
        self._row_bytes = 0  # 0 until WELCOME
        self._servers = _Servers()
        self._greets = False  # whether an ingest process that does not know this actor must get a HELLO
        self._serial = -1
        self._hello_at = -float("inf")
        self._unanswered = False  # whether the last HELLO is unanswered
        self._asked_at: float | None = None  # the time of the first question that was not answered
        self._progress_at = self._heard_at = 0.0
        self._reported, self._reported_at = (0, 0), 0.0
        self._leaving = False
        self.produced = self.evicted = self.forgotten = 0
        self.newest_version = -1
        self.refusal: tuple[str, str] | None = None
        self.said_goodbye = False

    @property
    def welcomed(self) -> bool:
        """Whether ingest has answered HELLO."""
        return self._row_bytes > 0

    @property
    def ready(self) -> bool:
        """Whether one more block may be offered and sent at once.

        With `drop_oldest`: whether ingest has answered at all.
        """
        return self.welcomed if self._drops else self._may_send

    @property
    def _may_send(self) -> bool:
        """Whether credit covers one block more than there are."""
        wanted = self._sequence + (len(self._waiting) + 1) * self._rows
        return self.welcomed and wanted <= self._limit

    @property
    def unacknowledged(self) -> int:
        """The number of trajectories kept here."""
        return sum(kept.rows for kept in self._waiting) + sum(kept.rows for kept in self._in_flight)

    def lost(self, now: float) -> bool:
        """Whether ingest has not answered a question for too long."""
        return self._asked_at is not None and now - self._asked_at > LOST_AFTER_S

    def offer(self, block: TrajectoryBlock) -> None:
        """Pack a block and queue it. With `drop_oldest`, the oldest unsent block may be dropped."""
        self.offer_packed(self._packer.pack(block), block)

    def offer_packed(self, payload: memoryview, block: TrajectoryBlock) -> None:
        """Queue a block that is already packed. Its memory is reused once the block is acknowledged, unless it is read-only."""
        size = block.size
        rows = size.trajectories
        assert rows == self._rows, f"every block has {self._rows} trajectories, as HELLO said, got {rows}"
        self._waiting.append(_Kept(payload, size, block.policy_version, block.collected_at, dict(block.counters)))
        self.produced += rows
        if self._drops and len(self._waiting) > MAX_WAITING:
            self.evicted += self._waiting.popleft().rows

    def greet(self) -> None:
        """Send HELLO as soon as possible: the server may have been replaced."""
        self._greets, self._hello_at = True, -float("inf")

    def leave(self) -> None:
        """Send BYE from now on, and nothing else."""
        self._leaving, self._hello_at = True, -float("inf")

    def receive(self, header: Buffer, _payload: Buffer, now: float) -> None:
        """Handle one message.

        Raises:
            WireError: if ingest never sends such a message.
        """
        message: messages.DataToActor = decode(header, messages.DATA_TO_ACTOR)
        if isinstance(message, messages.Reject):
            self._turn_away(message)
        elif message.incarnation != self._incarnation:
            return
        elif isinstance(message, messages.DataBye):
            self.said_goodbye = True
        elif isinstance(message, messages.DataLoss):
            if message.next == self._acknowledged:
                self.forgotten += message.next - message.first
        else:
            self._take_word(message, now)

    def _turn_away(self, message: messages.Reject) -> None:
        """Stop, or send HELLO again if ingest was replaced and does not know this session."""
        if message.reason != "forgotten":
            self.refusal = (message.reason, message.detail)
        elif self.welcomed:
            self._row_bytes, self._limit, self._hello_at = 0, 0, -float("inf")

    def _of_this_server(self, message: messages.DataWelcome | messages.Ack) -> bool:
        """Whether a message is from the present ingest process.

        A new process gets a HELLO and answers with WELCOME.
        """
        if self._servers.is_present(message.server):
            return True
        if self._servers.is_past(message.server):
            return False
        if not isinstance(message, messages.DataWelcome):
            self._greets = True
            return False
        self._servers.welcomed_by(message.server)
        self._serial = -1
        return True

    def _take_word(self, message: messages.DataWelcome | messages.Ack, now: float) -> None:
        if message.next > self._sequence or message.next % self._rows:
            raise WireError("sequence", f"expected blocks of {self._rows} below {self._sequence}, got {message.next}")
        self._heard_at, self._asked_at = now, None
        self.newest_version = max(self.newest_version, message.version)
        if not self._of_this_server(message) or message.next < self._acknowledged:
            return
        if message.serial <= self._serial:
            self._take_late_word(message, now)
            return
        self._serial = message.serial
        if isinstance(message, messages.DataWelcome):
            self._row_bytes, self._greets = max(1, message.row_bytes), False
        if message.next > self._acknowledged:
            self._progress_at = now
        self._release(message.next)
        if self.welcomed:
            self._limit = message.next + message.credit // self._row_bytes
        if isinstance(message, messages.DataWelcome) or message.resend:
            self._go_back(now)

    def _take_late_word(self, message: messages.DataWelcome | messages.Ack, now: float) -> None:
        """Handle a message whose numbers are outdated. If it is the WELCOME, it still answers HELLO."""
        if isinstance(message, messages.DataWelcome) and self._unanswered:
            self._go_back(now)

    def _go_back(self, now: float) -> None:
        """Send everything in flight again: ingest has reported what it has."""
        self._cursor, self._progress_at, self._unanswered = 0, now, False

    def _release(self, acknowledged: int) -> None:
        """Drop the blocks that ingest has."""
        self._acknowledged = acknowledged
        while self._in_flight and self._in_flight[0].first + self._in_flight[0].rows <= acknowledged:
            released = self._in_flight.popleft()
            self._cursor = max(0, self._cursor - 1)
            # A repeated message that is still being sent would get other content, but ingest ignores payloads below `next`.
            self._packer.take_back(released.payload)

    def send(self, now: float) -> list[Frames]:
        """Return the messages to send now. Every returned message counts as sent."""
        if self.refusal is not None:
            return []
        if self._leaving:
            return self._goodbye(now)
        frames = [encode(self._hello(now), to_json(self._schema.to_dict()))] if self._hello_due(now) else []
        if self.welcomed:
            frames += self._blocks(now)
            frames += self._counts(now)
        return frames

    def _goodbye(self, now: float) -> list[Frames]:
        if self.said_goodbye or now - self._hello_at < RETRY_EVERY_S:
            return []
        self._hello_at = now
        return [encode(messages.DataBye(*self._actor, self.produced, self.evicted, self._session))]

    def _hello_due(self, now: float) -> bool:
        """Whether to send HELLO: every second before WELCOME, later only if an answer is overdue.

        It is not overdue before everything in flight can have arrived. HELLO makes the actor send
        all of it again.
        """
        if not self.welcomed or self._greets:
            return now - self._hello_at >= RETRY_EVERY_S
        if self._in_flight:
            within_s = answer_within_s(sum(kept.payload.nbytes for kept in self._in_flight))
            return min(now - self._progress_at, now - self._hello_at) >= within_s
        covered = self._sequence + self._rows <= self._limit
        return not covered and min(now - self._heard_at, now - self._hello_at) >= ANSWER_WITHIN_S

    def _hello(self, now: float) -> messages.DataHello:
        self._hello_at, self._unanswered = now, True
        self._asked_at = now if self._asked_at is None else self._asked_at
        counts = self._acknowledged, self.produced, self.evicted
        return messages.DataHello(*self._actor, self._rows, self._schema.identity, *counts, self._session)

    def _blocks(self, now: float) -> list[Frames]:
        """Return the blocks that credit covers: first those to be sent again, then new ones."""
        while self._waiting and self._sequence + self._waiting[0].rows <= self._limit:
            kept = self._waiting.popleft()
            kept.first = self._sequence
            self._sequence += kept.rows
            if not self._in_flight:
                self._progress_at = now
            self._in_flight.append(kept)
        frames = []
        for kept in islice(self._in_flight, self._cursor, None):
            if kept.first + kept.rows > self._limit:
                break
            self._cursor += 1
            self._reported = (self.produced, self.evicted)
            sender = (*self._actor, self._schema.identity)
            header = kept.header(sender, self.produced, self.evicted, self._session)
            frames.append(encode(header, kept.payload))
        return frames

    def _counts(self, now: float) -> list[Frames]:
        """Return a heartbeat, if there are counts that no block has carried for a while."""
        counts = (self.produced, self.evicted)
        if counts == self._reported or now - self._reported_at < HEARTBEAT_EVERY_S:
            return []
        self._reported, self._reported_at = counts, now
        return [encode(messages.DataHeartbeat(*self._actor, *counts, self._session))]
