"""Batches that take longer on a slow link than a rank waits before it repeats its request."""

from __future__ import annotations

import pytest

import replay.ingest.batches.learner_rank
from protocol.wire import messages
from protocol.wire.codec import decode, encode
from tests.replay.conversation import Conversation, batches_in
from tests.replay.ingest.batches.test_server import filled

SECONDS = 5


def handed_out() -> tuple[Conversation, int]:
    """Ingest that has just handed out a batch, and the batch's bytes."""
    talk = filled(4)
    talk.learn()
    talk.requests[0] = 1
    talk.core.receive_batches(b"rank 0", encode(messages.Get(0, "t", 1, 0, -1, -1, 0))[0])
    talk.core.turn(0.0)
    for _, (header, payload) in talk.core.outgoing_batches():
        if isinstance(decode(header, messages.BATCH_TO_RANK), messages.BatchMessage):
            return talk, memoryview(payload).nbytes
    raise AssertionError("no batch")


@pytest.fixture
def talk(monkeypatch: pytest.MonkeyPatch) -> Conversation:
    """Ingest that has just handed out a batch which takes 5 s on the slowest link."""
    _, nbytes = handed_out()
    monkeypatch.setattr(replay.ingest.batches.learner_rank, "SLOWEST_LINK_BYTES_S", nbytes / SECONDS)
    return handed_out()[0]


def comes_again(talk: Conversation, repeats: int) -> list[int]:
    """After which of some repeated requests the batch is handed out again; the others are told to wait."""
    found = []
    for repeat in range(1, repeats + 1):
        answers = talk.get(again=True)
        if batches_in(answers):
            found.append(repeat)
        else:
            assert answers == [messages.BatchPending(1)]
    return found


def test_a_large_batch_in_flight_is_repeated_late_and_less_and_less_often(talk: Conversation) -> None:
    assert comes_again(talk, 60) == [5, 15, 35, 55]  # by hand: after 5, 10, 20 and no more than 20 requests


def test_on_a_new_connection_it_is_handed_out_again_at_once(talk: Conversation) -> None:
    assert comes_again(talk, 2) == []
    talk.core.receive_batches(b"another connection", encode(messages.Get(0, "t", 1, 0, -1, -1, 0))[0])
    assert len(batches_in(talk.told())) == 1
