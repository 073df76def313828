"""One learner rank in ingest: the parts that wait for it, the parts that it holds, and messages to it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from protocol.data.priorities import read_priorities
from protocol.data.run_schema import RunSchema
from protocol.wire import messages
from protocol.wire.codec import Buffer, Frames, encode, to_json
from protocol.wire.deadlines import RETRY_EVERY_S, SLOWEST_LINK_BYTES_S
from replay.log.marks import Mark
from replay.store.assembly import Part

MAX_PATIENCE = 4
"""The longest wait before a part is sent again, as a multiple of the time that it may need on the
slowest link."""
MAX_LENT = 4
"""A rank may keep the shared memory of this many parts that were trained on. If it keeps more, it gets the
next parts through the socket."""


@dataclass
class RankChanges:
    """The changes that a learner's message causes. Ingest applies and counts them."""

    trained: list[Part] = field(default_factory=list)
    freed: list[Part] = field(default_factory=list)  # their shared memory may be used again
    returned: list[Part] = field(default_factory=list)  # not trained on; in the order in which they were cut
    policy_version: int = -1
    joined: messages.BatchHello | None = None  # HELLO of a new session
    rewound: bool = False  # the same process has a new session, because it went back to a checkpoint on purpose
    left: list[int] = field(default_factory=list)  # ranks that have sent BYE
    cursor: int | None = None  # a checkpoint contains all training on records before this position in the log
    mark: Mark | None = None  # the mark in the checkpoint that a new session resumes from
    resumed_from: int | None = None  # the policy version that a new session resumes from; later training is lost


@dataclass(frozen=True)
class RankWelcome:
    """The content of the message that a rank gets before its first part.

    Attributes:
        schema: the run's schema.
        priorities: whether the learner must send priorities.
    """

    schema: RunSchema
    priorities: bool


@dataclass(slots=True, eq=False)
class LearnerRank:
    """The session of one rank."""

    route: bytes
    token: str
    outgoing: list[tuple[bytes, Frames]]  # messages to all ranks; belongs to the BatchServer
    server: int = 0  # the number of this ingest process
    waiting: deque[Part] = field(default_factory=deque)  # cut, not handed out
    held: deque[Part] = field(default_factory=deque)  # handed out, not consumed
    lent: deque[Part] = field(default_factory=deque)  # consumed, in shared memory that the learner may still read
    shares: bool = False  # whether it can read shared memory of this machine
    request: int = -1  # the number of the newest request
    learner_step: int = 0
    answered: Part | None = None  # the part that was sent for the newest request
    answered_on: bytes = b""  # the connection that it was sent on
    repeats: int = 0  # how often the newest request was repeated on that connection
    patience: int = 0  # the part is sent again after this many repetitions
    welcomed: bool = False
    told_version: int = -1  # the newest policy version that it has reported
    mark_asked: tuple[bytes, messages.LogMark] | None = None  # the open question for a mark, and its connection

    @property
    def asks(self) -> bool:
        """Whether a request is open."""
        return self.request >= 0 and self.answered is None

    @property
    def starves(self) -> bool:
        """Whether a request is open and no part waits for it."""
        return self.asks and not self.waiting

    @property
    def may_share(self) -> bool:
        """Whether its next part may lie in shared memory."""
        return self.shares and len(self.lent) < MAX_LENT

    @property
    def held_rows(self) -> int:
        """The number of fresh trajectories that it holds."""
        return sum(part.fresh_rows for part in self.held)

    def may_get(self, committed: int) -> bool:
        """Whether it has an open request, a part waits for it, and the log contains the record of that part."""
        return self.asks and bool(self.waiting) and self.waiting[0].record < committed

    def reconnect(self, route: bytes, *, shares: bool) -> None:
        """Continue a session on another connection."""
        self.route, self.welcomed, self.shares = route, False, shares

    def take_priorities(self, batch_id: int, payload: Buffer) -> None:
        """Store the priorities of a part.

        Ignored if the part is no longer held, or was cut by an earlier server.

        Raises:
            WireError: `priorities` if they do not fit the part.
        """
        for part in self.held:
            if part.batch_id == batch_id and not part.recovered:
                part.priorities = read_priorities(payload, part.rows)

    def consume(self, batch_id: int, version: int, changes: RankChanges) -> None:
        """Count every part up to a batch as trained on.

        Args:
            batch_id: the id of the last batch that was trained on.
            version: the policy version after it.
            changes: the parts are added to it.
        """
        changes.policy_version = version
        self.told_version = max(self.told_version, version)
        while self.held and self.held[0].batch_id <= batch_id:
            part = self.held.popleft()
            changes.trained.append(part)
            if part.lent:
                self.lent.append(part)

    def take_mark_question(self, told: int) -> tuple[bytes, messages.LogMark] | None:
        """Return the open question for a mark, if all ranks have reported its policy version.

        Args:
            told: the newest policy version that every rank has reported.
        """
        if self.mark_asked is None or self.mark_asked[1].policy_version > told:
            return None
        question, self.mark_asked = self.mark_asked, None
        return question

    def free(self, batch_id: int) -> list[Part]:
        """Return the lent parts before a batch. The learner no longer reads their shared memory."""
        freed = []
        while self.lent and self.lent[0].batch_id < batch_id:
            freed.append(self.lent.popleft())
        return freed

    def give_up(self, get: messages.Get) -> list[Part]:
        """Return the parts that had not arrived when the rank made a new request. The rank does not accept them any more."""
        never = [part for part in self.held if part.batch_id > get.received and get.request > self.request]
        for part in never:
            self.held.remove(part)
        return never

    def ask(self, get: messages.Get, welcome: RankWelcome | None, *, stop: bool) -> None:
        """Handle a request. A repeated request is answered again if the first answer may be lost."""
        if get.request > self.request:
            self.request, self.learner_step, self.answered = get.request, get.learner_step, None
        elif get.request == self.request:
            if self.answered is None:
                self.say_pending(get.request)
            elif self.answered in self.held:
                self._answer_again(self.answered, welcome, stop=stop)

    def _answer_again(self, part: Part, welcome: RankWelcome | None, *, stop: bool) -> None:
        """Send the same part again if it is probably lost.

        It is lost if the connection is new, or if the rank could not read the shared memory. On the same
        connection, it is probably still on its way: a rank repeats its request every second, and a batch
        may need much longer on a slow link. Another copy would only delay it.
        """
        self.repeats += 1
        if self.route != self.answered_on or (part.lent and not self.shares):
            self._send(part, welcome, stop=stop)
        elif self.repeats >= self.patience:
            patience = self.patience
            self._send(part, welcome, stop=stop)
            self.patience = min(2 * patience, MAX_PATIENCE * repeats_while_sent(part))
        else:
            self.say_pending(self.request)

    def say_pending(self, request: int) -> None:
        """Answer a request for which there is no batch yet."""
        self.outgoing.append((self.route, encode(messages.BatchPending(request, self.server))))

    def hand_out(self, fleet: dict[str, Any], welcome: RankWelcome | None, *, stop: bool) -> Part:
        """Answer the open request with the part that waits.

        Args:
            fleet: statistics that the learner reports with the batch.
            welcome: sent to the rank before its first part.
            stop: whether the run ends.
        """
        part = self.answered = self.waiting.popleft()
        self.held.append(part)
        self.outgoing.append((self.route, encode(messages.FleetStatus(self.request), to_json(fleet))))
        self._send(part, welcome, stop=stop)
        return part

    def _send(self, part: Part, welcome: RankWelcome | None, *, stop: bool) -> None:
        if not self.welcomed:
            assert welcome is not None, "parts exist only after the schema is known"
            self.welcomed = True
            message = messages.BatchWelcome(self.token, welcome.priorities)
            self.outgoing.append((self.route, encode(message, to_json(welcome.schema.to_dict()))))
        size = part.size
        place = part.place if self.shares else ""
        part.lent = bool(place)
        header = messages.BatchMessage(
            self.request, part.batch_id, self.learner_step, size.trajectories, size.steps, size.finals, stop, place
        )
        self.outgoing.append((self.route, encode(header, b"" if part.lent else part.payload)))
        self.answered_on, self.repeats, self.patience = self.route, 0, repeats_while_sent(part)


def repeats_while_sent(part: Part) -> int:
    """Return how many times a rank may repeat its request while a part is sent over the slowest link."""
    return ceil(part.payload.nbytes / (SLOWEST_LINK_BYTES_S * RETRY_EVERY_S))
