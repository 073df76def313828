from __future__ import annotations

import numpy as np
import pytest

from oatmill.errors import WireError
from protocol.data.weights import Weights, layout_of
from protocol.peers.weights import CHUNK_BYTES, MAX_PUSHED, SMALL_BYTES, WINDOW_BYTES, PublisherPeer, ReceiverPeer
from protocol.wire import deadlines, messages
from protocol.wire.codec import Frames, decode, encode
from protocol.wire.deadlines import ANSWER_WITHIN_S
from replay.hub.weights_store import KEPT_FOR_S, WeightsStore


def weights_of(version: int, numbers: int = 10) -> Weights:
    return Weights.pack(version, {"w": np.full(numbers, version, np.float32)}, "float32")


def layout_for(numbers: int) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return layout_of({"w": np.zeros(numbers, np.float32)})


def push(store: WeightsStore, weights: Weights, now: float = 0.0) -> list[Frames]:
    header = messages.WeightsPush(weights.version, weights.dtype, weights.digest.hex(), 0.0)
    store.receive(b"learner", encode(header)[0], weights.buffer, now=now, wall=0.0)
    return [frames for _, frames in store.outgoing()]


def carry(peer: ReceiverPeer, store: WeightsStore, now: float = 0.0, *, limit: int = 1000) -> int:
    """Exchange messages until both sides are silent; returns the number of chunks sent."""
    chunks = 0
    for _ in range(limit):
        asked = peer.send(now)
        for header, payload in asked:
            store.receive(b"actor", header, payload, now=now, wall=0.0)
        answered = store.outgoing()
        chunks += len(answered)
        for _, (header, payload) in answered:
            peer.receive(header, bytes(payload), now)
        if not asked and not answered:
            break
    return chunks


def test_an_actor_pulls_the_newest_version_completely() -> None:
    store, peer = WeightsStore(), ReceiverPeer(layout_for(10))
    push(store, weights_of(3))
    push(store, weights_of(5))
    peer.want(4)
    carry(peer, store)
    taken = peer.take()
    assert taken is not None
    assert taken.version == 5
    assert taken.unpack(layout_for(10))["w"].tolist() == [5.0] * 10
    assert peer.take() is None
    assert not peer.pulling


def place_of(weights: Weights) -> int:
    return np.frombuffer(weights.buffer, np.uint8).ctypes.data


def pulled(peer: ReceiverPeer, store: WeightsStore, version: int) -> Weights:
    push(store, weights_of(version))
    peer.want(version)
    carry(peer, store)
    taken = peer.take()
    assert taken is not None
    return taken


def test_a_version_in_use_is_not_changed_and_unused_memory_is_reused() -> None:
    store, peer = WeightsStore(), ReceiverPeer(layout_for(10))
    first = pulled(peer, store, 1)
    arrays, place = first.unpack(layout_for(10)), place_of(first)
    del first
    second = pulled(peer, store, 2)  # the arrays of the first one are still looked at
    assert arrays["w"].tolist() == [1.0] * 10
    assert second.unpack(layout_for(10))["w"].tolist() == [2.0] * 10
    del arrays
    third = pulled(peer, store, 3)
    assert place_of(third) == place
    assert second.unpack(layout_for(10))["w"].tolist() == [2.0] * 10
    assert third.unpack(layout_for(10))["w"].tolist() == [3.0] * 10


def test_weights_larger_than_the_window_come_in_chunks_under_credit() -> None:
    numbers = (2 * WINDOW_BYTES + CHUNK_BYTES // 2) // 4
    store, peer = WeightsStore(), ReceiverPeer(layout_for(numbers))
    push(store, weights_of(0, numbers))
    peer.want(0)
    (question,) = [decode(header, messages.WEIGHTS_TO_HUB) for header, _ in peer.send(0.0)]
    assert question == messages.WeightsGet(-1, -1, 0, WINDOW_BYTES)
    assert peer.send(0.1) == []  # the window is used up
    store.receive(b"actor", encode(question)[0], b"", now=0.0, wall=0.0)
    for _, (header, payload) in store.outgoing():
        assert len(payload) <= CHUNK_BYTES
        peer.receive(header, bytes(payload), 0.1)
    # By hand: two windows of 4 chunks and half a chunk are 9 messages, of which 4 have come.
    assert carry(peer, store, 0.2) == 5
    taken = peer.take()
    assert taken is not None
    assert np.frombuffer(taken.buffer, np.float32).tolist() == [0.0] * numbers


def test_a_request_waits_at_the_hub_for_the_next_version() -> None:
    store, peer = WeightsStore(), ReceiverPeer(layout_for(10))
    peer.want(0)
    assert carry(peer, store) == 0
    push_header = messages.WeightsPush(0, "float32", weights_of(0).digest.hex(), 0.0)
    store.receive(b"learner", encode(push_header)[0], weights_of(0).buffer, now=0.0, wall=0.0)
    routes = [route for route, _ in store.outgoing()]
    assert routes == [b"actor", b"learner"]


def test_a_pull_is_finished_although_a_newer_version_arrives() -> None:
    numbers = 2 * WINDOW_BYTES // 4
    store, peer = WeightsStore(), ReceiverPeer(layout_for(numbers))
    push(store, weights_of(1, numbers))
    peer.want(1)
    carry(peer, store, limit=1)  # the first window of four chunks
    push(store, weights_of(2, numbers))
    carry(peer, store)
    taken = peer.take()
    assert taken is not None
    assert taken.version == 1
    taken.verify()


def test_a_pull_whose_version_is_gone_starts_again_with_the_newest() -> None:
    numbers = 2 * WINDOW_BYTES // 4
    store, peer = WeightsStore(), ReceiverPeer(layout_for(numbers))
    push(store, weights_of(1, numbers))
    peer.want(1)
    carry(peer, store, limit=1)
    push(store, weights_of(2, numbers), now=KEPT_FOR_S + 1)  # nobody has asked for version 1 for so long
    carry(peer, store, now=KEPT_FOR_S + 1)
    taken = peer.take()
    assert taken is not None
    assert taken.version == 2


def test_a_version_that_nobody_pulls_is_dropped_when_the_next_one_arrives() -> None:
    numbers = 2 * WINDOW_BYTES // 4
    store, peer = WeightsStore(), ReceiverPeer(layout_for(numbers))
    push(store, weights_of(1, numbers))
    peer.want(1)
    carry(peer, store)  # pulled to its end
    for version in range(2, 6):
        push(store, weights_of(version, numbers))
    assert store._older == {}


def test_lost_chunks_are_requested_again_when_they_are_overdue() -> None:
    store, peer = WeightsStore(), ReceiverPeer(layout_for(10))
    push(store, weights_of(1))
    peer.want(1)
    peer.send(0.0)  # lost
    assert peer.send(ANSWER_WITHIN_S - 0.1) == []
    carry(peer, store, ANSWER_WITHIN_S)
    assert peer.take() is not None


def test_damaged_weights_are_never_returned_and_the_pull_starts_again() -> None:
    peer = ReceiverPeer(layout_for(10))
    weights = weights_of(1)
    peer.want(1)
    peer.send(0.0)
    torn = bytearray(weights.buffer)
    torn[7] ^= 1
    chunk = messages.WeightsChunk(1, "float32", weights.digest.hex(), len(torn), 0)
    with pytest.raises(WireError, match="weights_digest"):
        peer.receive(encode(chunk)[0], bytes(torn), 0.0)
    assert peer.take() is None
    assert peer.pulling
    assert len(peer.send(0.1)) == 1


def test_weights_of_another_network_are_rejected() -> None:
    peer = ReceiverPeer(layout_for(11))
    weights = weights_of(1)
    peer.want(1)
    chunk = messages.WeightsChunk(1, "float32", weights.digest.hex(), len(weights.buffer), 0)
    with pytest.raises(WireError, match="weights_layout: expected 44 bytes for this network, got 40"):
        peer.receive(encode(chunk)[0], weights.buffer, 0.0)


def test_a_version_that_is_not_newer_is_ignored() -> None:
    store, peer = WeightsStore(), ReceiverPeer(layout_for(10))
    push(store, weights_of(5))
    peer.want(5)
    carry(peer, store)
    assert peer.take() is not None
    peer.want(3)
    assert not peer.pulling
    late = messages.WeightsChunk(4, "float32", weights_of(4).digest.hex(), 40, 0)
    peer.want(6)
    peer.receive(encode(late)[0], weights_of(4).buffer, 0.0)
    assert peer.take() is None


def test_the_hub_rejects_damaged_weights_and_keeps_its_own() -> None:
    store = WeightsStore()
    push(store, weights_of(1))
    torn = Weights(2, weights_of(3).buffer, "float32", weights_of(2).digest)
    (answer,) = push(store, torn)
    refused = decode(answer[0], messages.WEIGHTS_TO_CLIENT)
    assert isinstance(refused, messages.Reject)
    assert refused.reason == "weights_digest"
    assert store.version == 1
    assert [error.reason for error in store.refused] == ["weights_digest"]


def test_versions_never_decrease_at_the_hub() -> None:
    store = WeightsStore()
    push(store, weights_of(7))
    (answer,) = push(store, weights_of(6))
    assert decode(answer[0], messages.WEIGHTS_TO_CLIENT) == messages.WeightsHeld(7)
    assert store.version == 7


@pytest.mark.parametrize(
    "header",
    [
        messages.WeightsPush(1, "int8", "0" * 32, 0.0),
        messages.WeightsPush(1, "float32", "0" * 31, 0.0),
        messages.WeightsPush(1, "float32", "x" * 32, 0.0),
        messages.WeightsGet(0, -1, -1, 100),
        messages.WeightsGet(0, -1, 41, 100),
        messages.WeightsGet(0, -1, 0, 0),
    ],
)
def test_a_bad_message_to_the_hub_is_answered_with_its_reason(header: messages.WeightsToHub) -> None:
    store = WeightsStore()
    push(store, weights_of(0))
    store.receive(b"peer", encode(header)[0], b"", now=0.0, wall=0.0)
    ((_, (answer, _)),) = store.outgoing()
    refused = decode(answer, messages.WEIGHTS_TO_CLIENT)
    assert isinstance(refused, messages.Reject)
    assert refused.reason == "header_fields"


def pushed(frames: list[Frames]) -> list[int]:
    return [decode(header, messages.WEIGHTS_TO_HUB).version for header, _ in frames]


def test_the_learner_sends_each_version_once_and_only_the_newest_waiting_one() -> None:
    peer = PublisherPeer()
    for version in range(MAX_PUSHED):
        peer.push(weights_of(version), 0.0)
        assert pushed(peer.send(0.0)) == [version]
    peer.push(weights_of(2), 0.0)
    peer.push(weights_of(3), 0.0)
    assert peer.send(0.0) == []  # two are on their way
    peer.receive(encode(messages.WeightsHeld(0))[0], b"", 0.1)
    assert pushed(peer.send(0.1)) == [3]
    assert not peer.flushed
    peer.receive(encode(messages.WeightsHeld(3))[0], b"", 0.2)
    assert peer.flushed


def test_a_version_that_is_not_acknowledged_is_sent_again() -> None:
    peer = PublisherPeer()
    peer.push(weights_of(4), 0.0)
    assert pushed(peer.send(0.0)) == [4]
    assert peer.send(ANSWER_WITHIN_S - 0.1) == []
    assert pushed(peer.send(ANSWER_WITHIN_S)) == [4]


def test_a_large_version_is_overdue_only_after_the_time_of_a_slow_link_and_later_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights = weights_of(4, 100)
    monkeypatch.setattr(deadlines, "SLOWEST_LINK_BYTES_S", len(weights.buffer) / 20)  # it takes 20 s
    peer = PublisherPeer()
    peer.push(weights, 0.0)
    sent_at = [now for now in range(200) if pushed(peer.send(now))]
    assert sent_at == [0, 20, 60, 140]  # by hand: after 20, 40 and 80 s
    peer.receive(encode(messages.WeightsHeld(4))[0], b"", 200.0)
    peer.push(weights_of(5, 100), 0.0)
    assert [now for now in range(200, 230) if pushed(peer.send(now))] == [200, 220], "an answer makes it start from the first"


@pytest.mark.parametrize(("reason", "final"), [("unknown_session", False), ("identity", True)])
def test_a_version_is_sent_again_to_a_hub_without_a_learner_but_not_to_one_with_another_learner(
    reason: str, final: bool
) -> None:
    peer = PublisherPeer("session")
    peer.push(weights_of(1), 0.0)
    assert len(peer.send(0.0)) == 1
    peer.receive(encode(messages.Reject(reason, ""))[0], b"", 0.1)
    assert (peer.refusal is not None) is final
    assert len(peer.send(ANSWER_WITHIN_S)) == 1


def test_a_large_version_is_announced_before_it_is_pushed_also_to_older_hubs() -> None:
    peer = PublisherPeer("session")
    large = weights_of(1, SMALL_BYTES)  # numbers of 4 bytes
    peer.push(large, 0.0)
    offer, push_ = (decode(header, messages.WEIGHTS_TO_HUB) for header, _ in peer.send(0.0))
    assert offer == messages.WeightsOffer(4 * SMALL_BYTES, "session")
    assert isinstance(push_, messages.WeightsPush)
    peer.receive(encode(messages.Reject("header_kind", ""))[0], b"", 0.1)
    assert peer.refusal is None


def test_the_hub_remembers_the_largest_offer_of_a_learner_that_may_push() -> None:
    store = WeightsStore()

    def refuse(_message: messages.WeightsToHub) -> None:
        raise WireError("identity", "only the learner")

    for nbytes in (10, 5):
        store.receive(b"learner", encode(messages.WeightsOffer(nbytes))[0], b"", now=0.0, wall=0.0)
    store.receive(b"stranger", encode(messages.WeightsOffer(10**9))[0], b"", now=0.0, wall=0.0, authorise=refuse)
    assert store.offered_bytes == 10
