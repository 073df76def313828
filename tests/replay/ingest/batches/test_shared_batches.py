"""Batches that a learner on the same machine reads from shared memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import replay.ingest.batches.learner_rank
import replay.store.assembly
from protocol.data.batch import Batch
from protocol.data.shared_memory import SharedMemory
from protocol.peers.batch import BatchPeer
from protocol.wire import messages
from protocol.wire.codec import decode, encode
from replay.ingest.batches.learner_rank import MAX_LENT
from tests.replay.conversation import Conversation
from tests.replay.ingest.batches.test_server import filled

BLOCKS = 32


class Pair:
    """Ingest with rows to hand out, and a rank that receives its messages at once."""

    def __init__(self, *, shares: bool = True) -> None:
        self.talk: Conversation = filled(2 * BLOCKS, queue_batches=2.0 * BLOCKS)
        self.peer = BatchPeer(rank=0, world=1, batch_size=4, token="t", shares=shares)
        self.now = 0.0
        self.heard: list[messages.BatchMessage] = []
        self.sent_bytes: list[int] = []

    def turn(self) -> None:
        for header, payload in self.peer.send(self.now):
            self.talk.core.receive_batches(b"rank 0", header, payload=payload)
        self.talk.core.turn(0.0)
        for _, (header, payload) in self.talk.core.outgoing_batches():
            message = decode(header, messages.BATCH_TO_RANK)
            if isinstance(message, messages.BatchMessage):
                self.heard.append(message)
                self.sent_bytes.append(memoryview(payload).nbytes)
            self.peer.receive(header, bytes(payload), self.now)  # a socket copies
        self.now += 0.01

    def get(self) -> Batch:
        self.peer.request(0)
        self.turn()
        delivery = self.peer.take()
        assert delivery is not None
        return delivery.batch

    def train(self, batch: Batch) -> None:
        self.peer.consumed(batch.batch_id, 0)
        self.turn()

    @property
    def places(self) -> list[str]:
        return [message.place for message in self.heard]


def rows_of(batch: Batch) -> list[int]:
    return [int(number) for number in batch.observations[:, 0, 1]]


@pytest.fixture(autouse=True)
def small_ones_too(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(replay.store.assembly, "SHARED_FROM_BYTES", 0)
    return iter([None])


def test_a_batch_in_shared_memory_is_not_sent() -> None:
    pair = Pair()
    assert [rows_of(pair.get()) for _ in range(2)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert pair.sent_bytes == [0, 0]
    assert all(pair.places)


def test_a_rank_that_cannot_read_shared_memory_gets_the_bytes() -> None:
    pair = Pair(shares=False)
    assert rows_of(pair.get()) == [0, 1, 2, 3]
    assert pair.sent_bytes[0] > 0
    assert pair.places == [""]


def test_a_small_batch_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay.store.assembly, "SHARED_FROM_BYTES", 2**20)
    pair = Pair()
    assert rows_of(pair.get()) == [0, 1, 2, 3]
    assert pair.sent_bytes[0] > 0


def test_memory_is_reused_only_when_the_learner_no_longer_uses_it() -> None:
    pair = Pair()
    kept = pair.get()
    pair.train(kept)
    observations = kept.observations
    del kept  # an array of it is enough
    for _ in range(3):
        pair.train(pair.get())
    assert pair.places.count(pair.places[0]) == 1
    np.testing.assert_array_equal(observations[:, 0, 1], [0, 1, 2, 3])
    del observations
    for _ in range(6):
        pair.train(pair.get())
    assert pair.places.count(pair.places[0]) > 1


def test_few_buffers_are_enough_if_the_learner_keeps_no_batches() -> None:
    pair = Pair()
    for _ in range(14):
        pair.train(pair.get())
    assert pair.sent_bytes == [0] * 14
    assert len(set(pair.places)) <= 5


def test_a_learner_that_keeps_batches_gets_the_next_ones_through_the_socket() -> None:
    pair = Pair()
    kept = []
    for _ in range(12):
        kept.append(pair.get())
        pair.train(kept[-1])
    assert [rows_of(batch) for batch in kept] == [[4 * n, 4 * n + 1, 4 * n + 2, 4 * n + 3] for n in range(12)]
    assert 0 < len(set(pair.places) - {""}) <= MAX_LENT + 2  # one more is held, and one is cut ahead


def test_the_learners_changes_to_a_batch_do_not_reach_the_queue() -> None:
    pair = Pair()
    pair.get().observations[...] = -1
    pair.talk.learn(token="another process")
    pair.peer = BatchPeer(rank=0, world=1, batch_size=4, token="another process", shares=True)
    assert rows_of(pair.get()) == [0, 1, 2, 3]


@pytest.mark.parametrize("problem", ["gone", "another process"])
def test_if_shared_memory_cannot_be_read_the_same_batch_is_sent_at_once(problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    other = SharedMemory.make(2**16)
    assert other is not None
    monkeypatch.setattr(
        replay.ingest.batches.learner_rank, "SLOWEST_LINK_BYTES_S", 1.0
    )  # through a socket it would be waited for
    pair = Pair()
    original = pair.peer.receive

    def receive(header: Any, payload: Any, now: float) -> None:
        message = decode(header, messages.BATCH_TO_RANK)
        if isinstance(message, messages.BatchMessage) and message.place:
            process, _, device, inode = message.place.split("/")
            number = "999999" if problem == "gone" else other.place.split("/")[1]
            monkeypatch.setattr(pair.peer, "receive", original)
            header, _ = encode(replace(message, place=f"{process}/{number}/{device}/{inode}"))
        original(header, payload, now)

    monkeypatch.setattr(pair.peer, "receive", receive)
    pair.peer.request(0)
    pair.turn()
    assert pair.peer.take() is None
    pair.turn()
    delivery = pair.peer.take()
    assert delivery is not None
    assert rows_of(delivery.batch) == [0, 1, 2, 3]
    assert pair.sent_bytes[0] == 0 < pair.sent_bytes[1]
    pair.train(delivery.batch)
    assert rows_of(pair.get()) == [4, 5, 6, 7]
    assert pair.sent_bytes[2] > 0
