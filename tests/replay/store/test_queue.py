from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from protocol.data.trajectory import Array, BlockSize
from protocol.wire import messages
from protocol.wire.codec import decode, encode, to_json
from replay.ingest.core import IngestCore, IngestSettings
from replay.store.queue import QueuedRows, Slice, TrajectoryQueue
from tests.replay.blocks import SCHEMA, block


def queued(numbers: list[int], version: int = 0) -> QueuedRows:
    return QueuedRows({"number": np.array(numbers)}, 0, len(numbers), version, 0.0, 100)


def numbers(slices: list[Slice]) -> list[int]:
    return [int(n) for piece in slices for n in piece.arrays["number"][piece.start : piece.stop]]


def test_rows_are_taken_in_the_order_in_which_they_arrived() -> None:
    queue = TrajectoryQueue()
    queue.append(queued([1, 2, 3]))
    queue.append(queued([4, 5]))
    assert numbers(queue.take(2)) == [1, 2]
    assert numbers(queue.take(2)) == [3, 4]
    assert queue.rows == 1


def test_memory_is_released_with_the_last_row_of_a_frame() -> None:
    queue = TrajectoryQueue()
    queue.append(queued([1, 2, 3]))
    queue.append(queued([4, 5]))
    queue.take(2)
    assert queue.nbytes == 200  # one row of the first frame still waits
    queue.take(1)
    assert queue.nbytes == 100


def test_rows_that_are_put_back_are_taken_first_and_in_order() -> None:
    queue = TrajectoryQueue()
    queue.append(queued([5, 6]))
    queue.put_back([queued([1, 2]), queued([3, 4])])
    assert numbers(queue.take(6)) == [1, 2, 3, 4, 5, 6]


def dropped(queue: TrajectoryQueue, keep: int) -> int:
    """Return how many rows older than version 3 were dropped."""
    return sum(piece.rows for piece in queue.drop_stale(3, keep=keep))


def test_stale_rows_are_dropped_from_the_front_but_enough_rows_stay() -> None:
    queue = TrajectoryQueue()
    queue.append(queued([1, 2, 3], version=1))
    queue.append(queued([4, 5], version=5))
    queue.append(queued([6, 7], version=2))
    # By hand: 7 rows wait and 4 are kept, so 3 may go: the three of version 1. Version 2 is stale too and stays.
    assert dropped(queue, keep=4) == 3
    assert queue.rows == 4
    assert dropped(queue, keep=4) == 0
    assert dropped(queue, keep=3) == 1
    assert numbers(queue.take(3)) == [4, 5, 7]
    assert queue.nbytes == 0


def test_more_rows_than_there_are_cannot_be_taken() -> None:
    with pytest.raises(AssertionError, match="1 rows asked for, 0 there"):
        TrajectoryQueue().take(1)


BATCH_ROWS = 4
ROWS = 2


class QueueAndDedupe(RuleBasedStateMachine):
    """One actor, one learner and ingest, against a plain list of what must be there.

    Blocks of 2 rows come in any order, repeated or not; batches of 4 rows are taken, trained on or given up.
    """

    def __init__(self) -> None:
        super().__init__()
        self.core = IngestCore(IngestSettings(2, BATCH_ROWS, 3.0, 10**6, 1e6))
        self.core.hub_says(policy_version=0, stop=False, members=None)
        self.waiting: list[int] = []  # sequence numbers that must be queued, in order
        self.held: list[tuple[int, list[int]]] = []  # what the learner has, by batch id
        self.trained: list[tuple[int, int]] = []  # policy version that came of a batch, and its rows
        self.rolled_back = self.duplicates = self.next = self.token = self.version = 0
        self.asked = False

    @initialize()
    def hello(self) -> None:
        hello = messages.DataHello(0, 1, ROWS, SCHEMA.identity, 0, 0, 0)
        self.core.receive_data(b"actor", encode(hello)[0], to_json(SCHEMA.to_dict()), 0.0)
        self.learn(-1)

    def learn(self, resumed_from: int) -> None:
        self.token += 1
        self.request = 0
        self.asked = False
        hello = messages.BatchHello(0, 1, BATCH_ROWS, f"token {self.token}", self.token, resumed_from)
        self.core.receive_batches(b"learner", encode(hello)[0])

    def credit(self) -> int:
        """Rows that the actor may send now."""
        self.pump()
        (session,) = self.core.sessions
        return session.credit

    def pump(self) -> None:
        """Let ingest do what it can: cut, hand out, grant credit."""
        self.core.turn(0.0)
        self.core.outgoing_data()
        for _, (header, payload) in self.core.outgoing_batches():
            message: Any = decode(header, messages.BATCH_TO_RANK)
            if isinstance(message, messages.BatchMessage):
                self.take(message, payload)

    def deliver(self, first: int) -> None:
        content = block(ROWS, first=first)
        size = content.size
        data = messages.Data(0, 1, SCHEMA.identity, first, ROWS, 2, size.finals, size.episodes, 0, 0.0, first + ROWS, 0, {})
        self.core.receive_data(b"actor", encode(data)[0], SCHEMA.trajectory.pack(content), 0.0)

    @rule()
    def the_next_block_comes(self) -> None:
        if self.credit() < ROWS:
            before = self.core.journal.state.ledger.accepted
            if self.core._credit.outstanding + self.core.queued + ROWS > self.core._credit.capacity:
                self.deliver(self.next)  # without credit and without room: it must not be taken
                assert self.core.journal.state.ledger.accepted == before
            return
        self.deliver(self.next)
        self.waiting += range(self.next, self.next + ROWS)
        self.next += ROWS
        self.pump()

    @precondition(lambda self: self.next > 0)
    @rule(data=st.data())
    def a_block_comes_again(self, data: st.DataObject) -> None:
        self.deliver(data.draw(st.integers(0, self.next // ROWS - 1)) * ROWS)
        self.duplicates += ROWS

    @rule(ahead=st.integers(1, 3))
    def a_block_comes_too_early(self, ahead: int) -> None:
        self.deliver(self.next + ahead * ROWS)

    @rule()
    def the_learner_asks(self) -> None:
        if not self.asked:
            self.request += 1
            self.asked = True
        received = self.held[-1][0] if self.held else -1
        get = messages.Get(0, f"token {self.token}", self.request, 0, -1, received, 0)
        self.core.receive_batches(b"learner", encode(get)[0])
        self.pump()

    def take(self, message: messages.BatchMessage, payload: Any) -> None:
        size = BlockSize(message.trajectories, message.steps, message.finals, 0)
        observations: Array = SCHEMA.batch.views(payload, size)["observations"]
        got = observations[:, 0, 1].astype(int).tolist()
        if self.held and self.held[-1][0] == message.batch_id:
            return  # the same batch once more
        assert got == self.waiting[:BATCH_ROWS]
        del self.waiting[:BATCH_ROWS]
        self.held.append((message.batch_id, got))
        self.asked = False

    @precondition(lambda self: self.held)
    @rule()
    def the_learner_has_trained(self) -> None:
        batch_id, rows = self.held.pop(0)
        self.version += 1
        consumed = messages.Consumed(0, f"token {self.token}", batch_id, self.version)
        self.core.receive_batches(b"learner", encode(consumed)[0])
        self.trained.append((self.version, len(rows)))

    @rule(data=st.data())
    def the_learner_restarts_from_a_checkpoint(self, data: st.DataObject) -> None:
        resumed_from = data.draw(st.integers(-1, self.version))
        self.waiting = [row for _, rows in self.held for row in rows] + self.waiting
        self.held = []
        self.rolled_back += sum(rows for version, rows in self.trained if version > resumed_from)
        self.trained = [(version, rows) for version, rows in self.trained if version <= resumed_from]
        self.learn(resumed_from)

    @invariant()
    def everything_is_where_the_model_has_it(self) -> None:
        ledger = self.core.ledger()
        assert ledger["trained"] == sum(rows for _, rows in self.trained)
        assert ledger["dropped"]["rolled_back"] == self.rolled_back
        assert ledger["queued"] == len(self.waiting)
        assert ledger["in_flight"] == sum(len(rows) for _, rows in self.held)
        assert ledger["duplicate"] == self.duplicates
        assert ledger["lost"] == 0
        assert self.core.journal.state.ledger.accepted == self.next


TestQueueAndDedupe = QueueAndDedupe.TestCase
TestQueueAndDedupe.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
