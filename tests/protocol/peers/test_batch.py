from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from oatmill.errors import WireError
from protocol.data.priorities import read_priorities
from protocol.data.trajectory import BlockSize
from protocol.peers.batch import BatchPeer
from protocol.wire import messages
from protocol.wire.codec import Frames, decode, encode, to_json
from protocol.wire.deadlines import LOST_AFTER_S
from tests.replay.blocks import SCHEMA

SIZE = BlockSize(3, 2, 1, 0)


def said(frames: list[Frames]) -> list[Any]:
    return [decode(header, messages.BATCH_TO_INGEST) for header, _ in frames]


def peer_of() -> BatchPeer:
    return BatchPeer(rank=0, world=1, batch_size=3, token="t")


def payload() -> bytes:
    buffer = bytearray(SCHEMA.batch.nbytes(SIZE))
    SCHEMA.batch.views(buffer, SIZE)["policy_version"][...] = [4, 5, 6]
    return bytes(buffer)


def hear(peer: BatchPeer, message: Any, content: Any = b"") -> None:
    peer.receive(encode(message)[0], content, 0.0)


def batch(request: int, batch_id: int = 7) -> messages.BatchMessage:
    return messages.BatchMessage(request, batch_id, 11, 3, 2, 1, stop=False)


def open_session(peer: BatchPeer) -> None:
    hear(peer, messages.BatchWelcome("t"), to_json(SCHEMA.to_dict()))


def test_the_first_request_sends_hello_and_later_ones_only_when_repeated() -> None:
    peer = peer_of()
    peer.request(11)
    assert [type(m) for m in said(peer.send(0.0))] == [messages.BatchHello, messages.Get]
    open_session(peer)
    hear(peer, batch(1), payload())
    assert peer.take() is not None
    peer.request(12)
    assert [type(m) for m in said(peer.send(0.1))] == [messages.Get]
    assert peer.send(1.0) == []
    assert [type(m) for m in said(peer.send(1.1))] == [messages.BatchHello, messages.Get]


def test_a_batch_comes_with_the_fleets_numbers_as_arrays_by_name() -> None:
    peer = peer_of()
    peer.request(11)
    open_session(peer)
    hear(peer, messages.FleetStatus(1), to_json({"episodes": 3}))
    hear(peer, batch(1), payload())
    delivery = peer.take()
    assert delivery is not None
    assert (delivery.batch.batch_id, delivery.batch.learner_step, delivery.batch.size) == (7, 11, 3)
    assert delivery.batch.policy_version.tolist() == [4, 5, 6]
    assert delivery.batch.observations.shape == (3, 3, 2)
    assert delivery.fleet == {"episodes": 3}
    assert peer.take() is None


def test_arrays_can_be_written_to_whatever_memory_they_came_in() -> None:
    for content in (payload(), bytearray(payload()), memoryview(bytearray(b"x" + payload()))[1:]):
        peer = peer_of()
        peer.request(11)
        open_session(peer)
        hear(peer, batch(1), content)
        delivery = peer.take()
        assert delivery is not None
        delivery.batch.rewards[...] = 1.0
        assert delivery.batch.policy_version.flags.aligned


def test_a_batch_that_was_not_requested_is_ignored() -> None:
    peer = peer_of()
    peer.request(11)
    open_session(peer)
    hear(peer, batch(2), payload())
    assert peer.take() is None
    hear(peer, batch(1), payload())
    hear(peer, batch(1, batch_id=8), payload())  # once more
    delivery = peer.take()
    assert delivery is not None
    assert delivery.batch.batch_id == 7


def test_a_batch_of_a_wrong_length_is_rejected_and_requested_again() -> None:
    peer = peer_of()
    peer.request(11)
    peer.send(0.0)
    open_session(peer)
    with pytest.raises(WireError, match="payload_length"):
        hear(peer, batch(1), payload()[:-8])
    assert peer.take() is None
    assert len(peer.send(1.0)) == 2


def test_every_request_repeats_the_consumed_batch_and_the_version() -> None:
    peer = peer_of()
    peer.consumed(7, policy_version=3)
    assert said(peer.send(0.0)) == [messages.Consumed(0, "t", 7, 3)]
    assert peer.send(0.1) == []
    peer.request(12)
    get = said(peer.send(0.2))[-1]
    assert (get.consumed, get.policy_version) == (7, 3)


def test_priorities_are_sent_with_their_batch_and_only_if_requested() -> None:
    peer = peer_of()
    numbers = np.array([0.5, 2.0, 0.0])
    peer.consumed(6, 1, numbers)
    ((_, content),) = peer.send(0.0)
    assert content == b"", "nobody has asked yet"
    hear(peer, messages.BatchWelcome("t", priorities=True), to_json(SCHEMA.to_dict()))
    peer.consumed(7, 2, numbers)
    peer.consumed(8, 3, 2 * numbers)
    first, second = peer.send(0.1)
    assert said([first, second]) == [messages.Consumed(0, "t", 7, 2), messages.Consumed(0, "t", 8, 3)]
    assert read_priorities(first[1], 3).tolist() == [0.5, 2.0, 0.0]
    assert read_priorities(second[1], 3).tolist() == [1.0, 4.0, 0.0]


def test_ingest_is_lost_after_a_minute_without_an_answer_but_not_while_it_answers_pending() -> None:
    peer = peer_of()
    assert not peer.lost(1e6)
    peer.request(11)
    peer.send(0.0)
    assert peer.lost(LOST_AFTER_S + 0.1)
    hear(peer, messages.BatchPending(1))
    assert not peer.lost(LOST_AFTER_S + 0.1)


def test_a_new_server_gets_a_new_request_and_answers_of_the_old_server_are_ignored() -> None:
    peer = peer_of()
    peer.request(11)
    peer.send(0.0)
    hear(peer, messages.BatchPending(1, server=5))
    hello, get = said(peer.send(0.1))
    assert isinstance(hello, messages.BatchHello)
    assert (get.request, get.server, get.received) == (2, 5, -1)
    open_session(peer)
    hear(peer, batch(1), payload())
    assert peer.take() is None
    hear(peer, messages.BatchPending(2, server=5))
    hear(peer, batch(2), payload())
    assert peer.take() is not None


def test_bye_is_sent_after_consumed() -> None:
    peer = peer_of()
    peer.consumed(7, 3)
    peer.leave()
    assert [type(m) for m in said(peer.send(0.0))] == [messages.Consumed, messages.Bye]
    hear(peer, messages.Bye("t"))
    assert peer.said_goodbye


def test_a_rejected_rank_knows_the_reason() -> None:
    peer = peer_of()
    hear(peer, messages.Reject("batch_size", "no"))
    assert peer.refusal == ("batch_size", "no")


def test_numbers_are_in_the_payload_as_the_batch_schema_says() -> None:
    views = SCHEMA.batch.views(payload(), SIZE)
    assert views["policy_version"].dtype == np.int64
    assert views["final_observations"].shape == (1, 2)
