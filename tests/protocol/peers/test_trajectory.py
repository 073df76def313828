from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from protocol.peers.trajectory import MAX_WAITING, TrajectorySenderPeer, WhenFull
from protocol.wire import deadlines, messages
from protocol.wire.codec import Frames, decode, encode
from protocol.wire.deadlines import ANSWER_WITHIN_S, LOST_AFTER_S
from tests.replay.blocks import SCHEMA, block

ROW_BYTES = 100


class Ingest:
    """What a test says in ingest's place."""

    def __init__(self, peer: TrajectorySenderPeer) -> None:
        self.peer = peer
        self.serial = self.server = 0

    def welcome(self, next_sequence: int, rows: int, *, now: float = 0.0, version: int = 0) -> None:
        """WELCOME with credit for this many rows."""
        self.serial += 1
        message = messages.DataWelcome(1, self.server, self.serial, next_sequence, rows * ROW_BYTES, ROW_BYTES, version)
        self.peer.receive(encode(message)[0], b"", now)

    def ack(self, next_sequence: int, rows: int, *, now: float = 0.0, version: int = 0, resend: bool = False) -> None:
        """ACK with credit for this many rows."""
        self.serial += 1
        message = messages.Ack(1, self.server, self.serial, next_sequence, rows * ROW_BYTES, version, resend)
        self.peer.receive(encode(message)[0], b"", now)


def peer_of(rows: int = 2, when_full: WhenFull = "block", *, compress: bool = False) -> tuple[TrajectorySenderPeer, Ingest]:
    peer = TrajectorySenderPeer(actor_id=3, incarnation=1, schema=SCHEMA, rows=rows, when_full=when_full, compress=compress)
    return peer, Ingest(peer)


def sent(frames: list[Frames]) -> list[Any]:
    return [decode(header, messages.DATA_TO_INGEST) for header, _ in frames]


def firsts(frames: list[Frames]) -> list[int]:
    return [message.first for message in sent(frames) if isinstance(message, messages.Data)]


def test_hello_is_repeated_every_second_until_it_is_answered() -> None:
    peer, ingest = peer_of()
    assert [type(m) for m in sent(peer.send(0.0))] == [messages.DataHello]
    assert peer.send(0.9) == []
    assert [type(m) for m in sent(peer.send(1.0))] == [messages.DataHello]
    ingest.welcome(0, rows=2, now=1.1)
    assert peer.send(2.5) == []


def test_nothing_is_sent_beyond_the_credit() -> None:
    peer, ingest = peer_of()
    ingest.welcome(0, rows=3)  # one block of two rows, and a row in which none fits
    assert peer.ready
    for _ in range(2):
        peer.offer(block(2))
    assert firsts(peer.send(0.0)) == [0]
    assert not peer.ready
    ingest.ack(2, rows=2)
    assert firsts(peer.send(0.0)) == [2]


def test_a_block_is_kept_until_an_acknowledgement_covers_all_of_it() -> None:
    peer, ingest = peer_of()
    ingest.welcome(0, rows=4)
    peer.offer(block(2))
    peer.offer(block(2))
    peer.send(0.0)
    assert peer.unacknowledged == 4
    ingest.ack(2, rows=2)
    assert peer.unacknowledged == 2
    ingest.ack(4, rows=0)
    assert peer.unacknowledged == 0


def test_after_an_overdue_acknowledgement_the_rest_is_sent_again() -> None:
    peer, ingest = peer_of()
    ingest.welcome(0, rows=6)
    for _ in range(3):
        peer.offer(block(2))
    assert firsts(peer.send(10.0)) == [0, 2, 4]
    assert peer.send(10.0 + ANSWER_WITHIN_S - 0.1) == []
    assert [type(m) for m in sent(peer.send(10.0 + ANSWER_WITHIN_S))] == [messages.DataHello]
    ingest.welcome(2, rows=4, now=12.0)  # the first block had come, the other two had not
    assert firsts(peer.send(12.0)) == [2, 4]


def test_a_welcome_that_an_acknowledgement_has_overtaken_still_answers_hello_once() -> None:
    peer, ingest = peer_of()
    peer.send(0.0)
    ingest.welcome(0, rows=2)
    peer.offer(block(2))
    assert firsts(peer.send(1.0)) == [0]  # and is lost
    assert [type(m) for m in sent(peer.send(1.0 + ANSWER_WITHIN_S))] == [messages.DataHello]
    ingest.serial = 2
    ingest.ack(0, rows=2)  # of serial 3
    ingest.serial = 1
    ingest.welcome(0, rows=0)  # of serial 2: its credit is old
    assert firsts(peer.send(3.1)) == [0]
    ingest.serial = 1
    ingest.welcome(0, rows=0)  # the network repeats it
    assert firsts(peer.send(3.2)) == []


def test_a_large_block_is_overdue_only_after_the_time_of_a_slow_link(monkeypatch: pytest.MonkeyPatch) -> None:
    peer, ingest = peer_of()
    ingest.welcome(0, rows=2)
    peer.offer(block(2))
    ((_, payload),) = peer.send(10.0)
    monkeypatch.setattr(deadlines, "SLOWEST_LINK_BYTES_S", memoryview(payload).nbytes / 20)  # it takes 20 s
    assert peer.send(29.9) == []
    assert [type(m) for m in sent(peer.send(30.0))] == [messages.DataHello]
    assert peer.send(49.9) == []


def test_an_actor_that_has_used_its_credit_after_a_long_unroll_waits_for_the_answer() -> None:
    peer, ingest = peer_of()
    ingest.welcome(0, rows=2, now=0.0)
    peer.offer(block(2))
    assert firsts(peer.send(100.0)) == [0]
    # Ingest was silent for 100 s, but it owes an answer only since the block has left.
    assert peer.send(100.1) == []
    assert [type(m) for m in sent(peer.send(100.0 + ANSWER_WITHIN_S))] == [messages.DataHello]


def test_an_acknowledgement_of_a_gap_makes_the_actor_resend_from_it() -> None:
    peer, ingest = peer_of()
    ingest.welcome(0, rows=6)
    for _ in range(3):
        peer.offer(block(2))
    peer.send(0.0)
    ingest.ack(2, rows=4, resend=True)
    assert firsts(peer.send(0.1)) == [2, 4]


def test_an_older_acknowledgement_that_arrives_late_changes_nothing() -> None:
    peer, ingest = peer_of()
    ingest.welcome(0, rows=2)
    ingest.ack(0, rows=0)  # the credit was taken back
    late = messages.Ack(1, 0, 1, 0, 2 * ROW_BYTES, 0, resend=True)
    peer.receive(encode(late)[0], b"", 0.0)
    assert not peer.ready


def test_messages_for_another_incarnation_change_nothing() -> None:
    peer, _ = peer_of()
    other = messages.DataWelcome(2, 0, 1, 0, 10 * ROW_BYTES, ROW_BYTES, 0)
    peer.receive(encode(other)[0], b"", 0.0)
    assert not peer.welcomed


def test_drop_oldest_drops_the_oldest_unsent_block_and_leaves_no_gap() -> None:
    peer, ingest = peer_of(when_full="drop_oldest")
    ingest.welcome(0, rows=2)
    peer.offer(block(2, mark=0.0))
    assert firsts(peer.send(0.0)) == [0]
    for number in range(1, MAX_WAITING + 3):
        peer.offer(block(2, mark=float(number)))
    # By hand: 18 blocks came after the first, 16 may wait, so 2 blocks of 2 rows went.
    assert peer.evicted == 4
    assert peer.produced == 2 * (MAX_WAITING + 3)
    ingest.ack(2, rows=2)
    frames = peer.send(0.0)
    assert firsts(frames) == [2]
    mark = SCHEMA.trajectory.views(frames[0][1], block(2).size)["observations"][0, 0, 0]
    assert mark == 3.0  # blocks 1 and 2 are gone, 3 has taken their sequence numbers
    assert peer.ready  # it never waits


def test_every_block_has_the_counts_of_produced_and_dropped_trajectories() -> None:
    peer, ingest = peer_of()
    ingest.welcome(0, rows=4)
    peer.offer(block(2))
    peer.offer(block(2))
    assert [(m.produced, m.evicted) for m in sent(peer.send(0.0))] == [(4, 0), (4, 0)]


def test_counts_that_no_block_carries_are_sent_in_a_heartbeat() -> None:
    peer, ingest = peer_of()
    ingest.welcome(0, rows=0)
    peer.offer(block(2))
    assert sent(peer.send(5.0))[-1] == messages.DataHeartbeat(3, 1, produced=2, evicted=0)
    assert [m for m in sent(peer.send(5.1)) if isinstance(m, messages.DataHeartbeat)] == []


def test_an_actor_that_waits_for_credit_asks_again() -> None:
    peer, ingest = peer_of()
    peer.send(0.0)
    ingest.welcome(0, rows=0, now=0.0)
    assert peer.send(ANSWER_WITHIN_S - 0.1) == []
    assert [type(m) for m in sent(peer.send(ANSWER_WITHIN_S))] == [messages.DataHello]


def test_ingest_is_lost_only_if_a_question_stays_unanswered() -> None:
    peer, ingest = peer_of()
    assert not peer.lost(1e6)
    peer.send(0.0)
    assert not peer.lost(LOST_AFTER_S)
    assert peer.lost(LOST_AFTER_S + 0.1)
    ingest.welcome(0, rows=2, now=70.0)
    assert not peer.lost(1e6)


def test_a_new_ingest_is_told_what_was_acknowledged_and_the_actor_continues() -> None:
    peer, ingest = peer_of()
    ingest.welcome(0, rows=6)
    for first in (0, 2):
        peer.offer(block(2, first=first))
    peer.send(0.0)
    ingest.ack(2, rows=4)
    ingest.server, ingest.serial = 7, 0
    peer.receive(encode(messages.Reject("forgotten", "who are you?"))[0], b"", 1.0)
    (header, _), *_ = peer.send(1.0)
    hello = decode(header, messages.DATA_TO_INGEST)
    assert (hello.acknowledged, hello.produced) == (2, 4)
    peer.receive(encode(messages.DataLoss(1, 0, 2))[0], b"", 1.1)
    late = messages.Ack(1, 0, 9, 4, 4 * ROW_BYTES, 0, resend=False)  # the dead one's: 4 is no longer true
    ingest.welcome(2, rows=4)
    peer.receive(encode(late)[0], b"", 1.2)
    assert (peer.forgotten, peer.refusal, peer.unacknowledged) == (2, None, 2)
    assert firsts(peer.send(1.3)) == [2]


def test_bye_has_the_last_counts_and_is_repeated_until_it_is_answered() -> None:
    peer, ingest = peer_of()
    ingest.welcome(0, rows=0)
    peer.offer(block(2))
    peer.leave()
    goodbye = messages.DataBye(3, 1, produced=2, evicted=0)
    assert sent(peer.send(0.0)) == [goodbye]
    assert peer.send(0.5) == []
    assert sent(peer.send(1.0)) == [goodbye]
    peer.receive(encode(goodbye)[0], b"", 1.0)
    assert peer.said_goodbye
    assert peer.send(5.0) == []


def test_every_message_to_an_actor_has_the_newest_version() -> None:
    peer, ingest = peer_of()
    assert peer.newest_version == -1
    ingest.welcome(0, rows=0, version=4)
    assert peer.newest_version == 4
    ingest.ack(0, rows=0, version=6)
    assert peer.newest_version == 6


def test_a_buffer_is_reused_once_its_block_is_acknowledged() -> None:
    peer, ingest = peer_of()
    ingest.welcome(0, rows=2)
    peer.offer(block(2, mark=1.0))
    first = peer.send(0.0)[0][1]
    ingest.ack(2, rows=2)
    peer.offer(block(2, mark=2.0))
    second = peer.send(0.0)[0][1]
    assert first is second
    assert SCHEMA.trajectory.views(second, block(2).size)["observations"][0, 0, 0] == 2.0


def test_an_actor_whose_hub_was_replaced_sends_hello_at_once_and_only_once() -> None:
    peer, ingest = peer_of()
    ingest.welcome(0, rows=2)
    assert sent(peer.send(0.1)) == []
    peer.greet()
    assert [type(message) for message in sent(peer.send(0.2))] == [messages.DataHello]
    ingest.server, ingest.serial = 7, 0
    ingest.ack(0, rows=2)  # the new one's, before it has answered: it changes nothing
    ingest.welcome(0, rows=2, now=0.3)
    assert sent(peer.send(1.5)) == []


def test_compressed_blocks_are_shorter_and_sent_again_as_they_were() -> None:
    (plain, to_plain), (peer, ingest) = peer_of(), peer_of(compress=True)
    for each, server in ((plain, to_plain), (peer, ingest)):
        server.welcome(0, rows=4)
        for first in (0, 2):
            each.offer(block(2, first=first))
    packed = [payload for header, payload in plain.send(0.0)][-2:]
    sent_first = [payload for header, payload in peer.send(0.0)][-2:]
    assert [len(payload) for payload in sent_first] < [len(payload) for payload in packed]
    for payload, expected in zip(sent_first, packed, strict=True):
        size = block(2).size
        arrays, wanted = SCHEMA.trajectory.unpack(payload, size), SCHEMA.trajectory.views(expected, size)
        assert all(np.array_equal(arrays[name], wanted[name]) for name in wanted)
    ingest.ack(0, rows=4, resend=True)
    assert [payload for _, payload in peer.send(0.0)] == sent_first


def test_the_buffer_of_a_compressed_block_is_packed_into_again_at_once_and_the_compressed_one_never() -> None:
    peer, ingest = peer_of(compress=True)
    ingest.welcome(0, rows=4)
    peer.offer(block(2))
    (buffer,) = peer._packer._spare
    peer.offer(block(2, first=2))
    peer.send(0.0)
    ingest.ack(4, rows=4)
    (kept,) = peer._packer._spare
    assert kept.obj is buffer.obj
