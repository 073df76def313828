"""The state machine of a learner rank on the batches socket; it has no socket itself."""

from __future__ import annotations

import logging
import weakref
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from mmap import mmap
from typing import Any

import numpy as np

from oatmill.errors import WireError
from protocol.data.batch import Batch
from protocol.data.observations import by_field
from protocol.data.priorities import pack_priorities
from protocol.data.run_schema import RunSchema
from protocol.data.shared_memory import open_shared
from protocol.data.trajectory import ALIGNMENT, Array, BlockSize
from protocol.wire import messages
from protocol.wire.codec import Buffer, Frames, decode, encode, from_json, to_json
from protocol.wire.deadlines import GOODBYE_WITHIN_S, LOST_AFTER_S, RETRY_EVERY_S

_log = logging.getLogger("oatmill.protocol")


@dataclass(frozen=True)
class Delivery:
    """A batch, and what the learner reports together with it."""

    batch: Batch  # arrays are writable and belong to the receiver
    fleet: dict[str, Any]  # replay.ingest.fleet.FleetStatistics.summary, and policy_lag, queue and ledger
    stop: bool  # whether the run ends


class BatchPeer:
    """One learner rank that gets its batches from ingest.

    Attributes:
        refusal: the reason why ingest rejected this rank, as (reason, detail); None if it did not.
        said_goodbye: whether ingest has answered this rank's BYE.
        new_mark: the answer to the last `ask_mark`; None until it arrives.
        wants_priorities: whether ingest asks for a priority for each trajectory that was trained
            on.
    """

    def __init__(
        self,
        *,
        rank: int,
        world: int,
        batch_size: int,
        token: str,
        incarnation: int = 0,
        resumed_from: int = -1,
        session: str = "",
        shares: bool = False,
        mark: Mapping[str, Any] | None = None,
    ) -> None:
        self._mark = to_json(dict(mark)) if mark else b""  # the checkpoint's point in ingest's log
        self._rank, self._token = rank, token
        self._hello = messages.BatchHello(rank, world, batch_size, token, incarnation, resumed_from, session, shares)
        self._mapped: deque[tuple[int, weakref.ref[mmap]]] = deque()  # batch ids, and the shared memory while it is in use
        self._schema: RunSchema | None = None
        self._request, self._learner_step, self._server = 0, 0, 0
        self._open = False
        self._consumed, self._received, self._policy_version = -1, -1, -1
        self._consumed_due: list[Frames] = []
        self._mark_asked: messages.LogMark | None = None  # asked for and not answered
        self._commit: messages.Commit | None = None
        self._told_at = -float("inf")  # when one of these two messages was last sent
        self._sent_at = -float("inf")
        self._asked_at: float | None = None
        self._fleet: dict[str, Any] = {}
        self._delivery: Delivery | None = None
        self._leaving = False
        self.refusal: tuple[str, str] | None = None
        self.said_goodbye = False
        self.new_mark: dict[str, Any] | None = None
        self.wants_priorities = False

    def ask_mark(self, learner_step: int) -> None:
        """Ask for the point in ingest's log up to which everything consumed so far is stored.

        The answer is put into `new_mark`.
        """
        self.new_mark, self._told_at = None, -float("inf")
        hello = self._hello
        self._mark_asked = messages.LogMark(hello.rank, self._token, learner_step, self._consumed, self._policy_version)

    def commit(self, cursor: int) -> None:
        """Report that a checkpoint contains everything before a mark's cursor.

        Repeated until ingest answers.
        """
        self._commit, self._told_at = messages.Commit(self._rank, self._token, cursor), -float("inf")

    def request(self, learner_step: int) -> None:
        """Ask for a batch."""
        assert not self._open, "one request may be open; poll it first"
        self._open, self._learner_step = True, learner_step
        self._request += 1
        self._sent_at = -float("inf")

    def consumed(self, batch_id: int, policy_version: int, priorities: Array | None = None) -> None:
        """Report that a batch was trained on.

        Every later GET repeats this, so a lost message does no harm.

        Priorities are sent only once. A trajectory whose priority is lost counts as one of the
        highest.
        """
        self._consumed = max(self._consumed, batch_id)
        self._policy_version = max(self._policy_version, policy_version)
        payload = b"" if priorities is None or not self.wants_priorities else pack_priorities(priorities)
        message = messages.Consumed(self._rank, self._token, self._consumed, self._policy_version)
        self._consumed_due.append(encode(message, payload))

    def leave(self) -> None:
        """Send BYE from now on."""
        self._leaving, self._sent_at = True, -float("inf")

    def take(self) -> Delivery | None:
        """Return the batch that has arrived, once; None if there is none."""
        delivery, self._delivery = self._delivery, None
        return delivery

    def lost(self, now: float) -> bool:
        """Whether ingest has not answered a question for too long."""
        return self._asked_at is not None and now - self._asked_at > LOST_AFTER_S

    def send(self, now: float) -> list[Frames]:
        """Return the messages to send now."""
        frames, self._consumed_due = self._consumed_due, []
        frames += self._checkpoint_words(now)
        if self._leaving:
            if not self.said_goodbye and now - self._sent_at >= GOODBYE_WITHIN_S:
                self._sent_at = now
                frames.append(encode(messages.Bye(self._token)))
        elif self._open and now - self._sent_at >= RETRY_EVERY_S:
            frames += self._question(now)
        return frames

    def _checkpoint_words(self, now: float) -> list[Frames]:
        """SNAPSHOT or COMMIT, until it is answered. Before a repetition, HELLO is sent again."""
        due = [message for message in (self._mark_asked, self._commit) if message is not None]
        if not due or now - self._told_at < RETRY_EVERY_S:
            return []
        first, self._told_at = self._told_at == -float("inf"), now
        return [*([] if first else [encode(self._hello, self._mark)]), *map(encode, due)]

    def _question(self, now: float) -> list[Frames]:
        """GET, with HELLO before it.

        HELLO is left out for the first GET of a session that is known to be open.
        """
        first, self._sent_at = self._sent_at == -float("inf"), now
        self._asked_at = now if self._asked_at is None else self._asked_at
        get = messages.Get(
            self._rank,
            self._token,
            self._request,
            self._learner_step,
            self._consumed,
            self._received,
            self._policy_version,
            self._freed(),
            self._server,
        )
        return [encode(get)] if first and self._schema is not None else [encode(self._hello, self._mark), encode(get)]

    def receive(self, header: Buffer, payload: Buffer, _now: float) -> None:
        """Handle one message. A batch's arrays share the payload's memory if that memory is writable.

        Raises:
            WireError: if ingest never sends such a message, or a payload's length differs from what
                its header says.
        """
        message: messages.BatchToRank = decode(header, messages.BATCH_TO_RANK)
        self._asked_at = None
        match message:
            case messages.BatchWelcome():
                self._take_welcome(message, payload)
            case messages.BatchPending():
                self._meet(message.server)
            case messages.FleetStatus():
                self._fleet = from_json(payload)
            case messages.BatchMessage():
                self._take_batch(message, payload)
            case messages.LogMark() | messages.Commit():
                self._take_checkpoint_word(message, payload)
            case messages.Reject():
                self.refusal = (message.reason, message.detail)
            case messages.Bye():
                self.said_goodbye = message.token == self._token

    def _meet(self, server: int) -> None:
        """Ask a new server again, under a new number: answers of the server before it are no longer taken."""
        if server != self._server:
            self._server, self._schema, self._sent_at = server, None, -float("inf")
            self._request += self._open

    def _take_welcome(self, message: messages.BatchWelcome, payload: Buffer) -> None:
        if message.token == self._token:
            self._schema = RunSchema.from_dict(from_json(payload))
            self.wants_priorities = message.priorities

    def _take_checkpoint_word(self, message: messages.LogMark | messages.Commit, payload: Buffer) -> None:
        if message == self._commit:
            self._commit = None
        elif message == self._mark_asked and type((values := from_json(payload)).get("cursor")) is int:
            self._mark_asked, self.new_mark = None, values

    def _take_batch(self, message: messages.BatchMessage, payload: Buffer) -> None:
        if not self._open or message.request != self._request or self._schema is None:
            return
        schema, size = self._schema.batch, BlockSize(message.trajectories, message.steps, message.finals, 0)
        try:
            content = self._shared(message, schema.nbytes(size)) if message.place else _writable(payload)
            arrays = schema.views(content, size)
        except OSError as error:
            self._do_without(error)
            return
        except ValueError as error:
            raise WireError("payload_length", str(error)) from None
        self._open = False
        self._received = max(self._received, message.batch_id)
        self._delivery = Delivery(Batch(message.batch_id, message.learner_step, **by_field(arrays)), self._fleet, message.stop)

    def _shared(self, message: messages.BatchMessage, nbytes: int) -> memoryview:
        """A batch's bytes in shared memory. Ingest reuses the memory once nothing here refers to it."""
        memory = open_shared(message.place, nbytes)
        self._mapped.append((message.batch_id, weakref.ref(memory)))
        return memoryview(memory)

    def _freed(self) -> int:
        """The id of the first batch that may be in use here in shared memory, or has not arrived."""
        while self._mapped and self._mapped[0][1]() is None:
            self._mapped.popleft()
        return self._mapped[0][0] if self._mapped else self._received + 1

    def _do_without(self, error: OSError) -> None:
        """Ask for batches through the socket, from this one on: the shared memory cannot be read."""
        _log.warning("shared memory cannot be read, so batches are sent through the socket from now on: %s", error)
        self._hello = replace(self._hello, shares=False)
        self._schema, self._sent_at = None, -float("inf")


def _writable(payload: Buffer) -> Buffer:
    """The payload itself if it is writable and its numbers are aligned, otherwise a copy."""
    view = memoryview(payload)
    aligned = view.nbytes == 0 or np.frombuffer(view, np.uint8).ctypes.data % ALIGNMENT == 0
    return bytearray(view) if view.readonly or not aligned else view
