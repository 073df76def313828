"""SNAPSHOT and COMMIT: a checkpoint's point in the log, and the data that the log keeps for it."""

from __future__ import annotations

from copy import deepcopy

import msgpack
import pytest

from oatmill.errors import UserError
from protocol.wire import messages
from protocol.wire.codec import decode, encode, from_json
from replay.ingest.core import IngestCore
from replay.log.journal import TALLY_EVERY_S, Journal, read_into
from replay.log.segments import SegmentLog
from replay.log.state import LogState
from tests.replay.conversation import Conversation
from tests.replay.log.fake_disk import FakeDisk


def open_journal(disk: FakeDisk, steps: int = 2, kept_bytes: int = 2**30) -> Journal:
    return Journal.open(disk, durable=True, keep_trained=True, steps=steps, kept_bytes=kept_bytes, segment_bytes=2000)


def talk_on(disk: FakeDisk, kept_bytes: int = 2**30) -> Conversation:
    """A conversation with a server whose log is on a disk."""
    talk = Conversation()
    talk.core = IngestCore(talk.core._settings, journal=open_journal(disk, kept_bytes=kept_bytes), server=1)
    talk.hub(0)
    return talk


def train(talk: Conversation, batches: int, version: int, first: int = 0) -> int:
    """Send and train on batches of four; the version then."""
    for number in range(batches):
        for row in (0, 2):
            talk.send(first + 4 * number + row)
        (batch,) = [answer for answer in talk.get(version=version) if isinstance(answer, tuple)]
        version += 1
        talk.consumed(batch[0].batch_id, version=version)
    return version


def log_mark(talk: Conversation, version: int, rank: int = 0, token: str = "t", consumed: int = -1) -> dict[str, object] | None:
    """What a rank is answered."""
    talk.core.receive_batches(f"rank {rank}".encode(), encode_mark(rank, token, consumed, version))
    talk.core.turn(talk.now)
    for _, (header, payload) in talk.core.outgoing_batches():
        if isinstance(decode(header, messages.BATCH_TO_RANK), messages.LogMark):
            return from_json(payload)
    return None


def encode_mark(rank: int, token: str, consumed: int, version: int) -> bytes:
    return encode(messages.LogMark(rank, token, 1, consumed, version))[0]


def test_a_mark_names_the_log_and_is_sent_only_once_it_is_on_the_disk() -> None:
    disk = FakeDisk()
    talk = talk_on(disk)
    talk.hello()
    talk.learn()
    version = train(talk, 2, 0)
    disk.room = 0
    talk.send(8)
    assert log_mark(talk, version) is None, "the disk is full"
    disk.room, talk.now = None, 10.0
    talk.core.turn(talk.now)
    answered = [decode(header, messages.BATCH_TO_RANK) for _, (header, _) in talk.core.outgoing_batches()]
    assert any(isinstance(answer, messages.LogMark) for answer in answered)
    values = log_mark(talk, version)
    assert values is not None
    state = LogState(keep_trained=True)
    read_into(state, SegmentLog(disk, segment_bytes=2000))
    assert (values["id"], values["cursor"]) == (state.identity, talk.core.journal.committed)
    assert len(state.trained_parts) == 2


class WatchedDisk(FakeDisk):
    """A disk that is copied each time a small file has been replaced, as a kill right then would leave it."""

    def replace(self, name: str, data: bytes) -> None:
        super().replace(name, data)
        self.copies: list[FakeDisk] = [*getattr(self, "copies", []), FakeDisk(deepcopy(self.files), deepcopy(self.synced))]


def test_a_server_that_dies_while_it_removes_old_rows_misses_no_records() -> None:
    disk = WatchedDisk()
    talk = talk_on(disk, kept_bytes=1)
    talk.hello()
    talk.learn()
    for number in range(8):
        talk.send(4 * number)
        talk.send(4 * number + 2)
        (batch,) = [answer for answer in talk.get(version=number) if isinstance(answer, tuple)]
        talk.now += TALLY_EVERY_S + 1.0  # so that a tally is due with the record that the batch was trained on
        talk.consumed(batch[0].batch_id, version=number + 1)
    reopened = [open_journal(copy, kept_bytes=1) for copy in disk.copies]
    assert len(reopened) >= 8
    assert [(journal.missing, journal.damage) for journal in reopened] == [(0, [])] * len(reopened)


def test_a_mark_waits_until_every_rank_has_reported_its_training() -> None:
    talk = talk_on(FakeDisk())
    talk.hello()
    talk.learn(0, 2, "a")
    talk.learn(1, 2, "b")
    for first in (0, 2):
        talk.send(first)
    talk.get(0, "a")
    talk.get(1, "b")
    assert log_mark(talk, 1, 0, "a", consumed=0) is None
    talk.core.receive_batches(b"rank 1", encode_consumed())
    talk.core.turn(0.0)
    answered = [decode(header, messages.BATCH_TO_RANK) for _, (header, _) in talk.core.outgoing_batches()]
    assert [type(answer) for answer in answered if isinstance(answer, messages.LogMark)] == [messages.LogMark]


def encode_consumed() -> bytes:
    return encode(messages.Consumed(1, "b", 1, 1))[0]


def test_data_after_the_checkpoint_is_trained_on_again_in_order() -> None:
    disk = FakeDisk()
    talk = talk_on(disk)
    talk.hello()
    talk.learn()
    version = train(talk, 2, 0)
    values = log_mark(talk, version)
    assert values is not None
    talk.tell(messages.Commit(0, "t", int(str(values["cursor"]))))
    train(talk, 2, version, first=8)
    assert len(talk.core.journal.state.blocks) == 4, "the blocks of two batches are kept, those in the checkpoint are not"
    talk.learn(token="u", incarnation=1, resumed_from=version)
    ledger = talk.core.ledger()
    assert (ledger["trained"], ledger["dropped"]["rolled_back"], ledger["lost"]) == (8, 0, 0)
    talk.requests[0] = 0
    ((_, rows),) = [answer for answer in talk.get(token="u", version=9) if isinstance(answer, tuple)]
    assert rows == [8, 9, 10, 11]


def test_a_learner_that_goes_back_by_its_own_decision_does_not_get_the_same_data() -> None:
    talk = talk_on(FakeDisk())
    talk.hello()
    talk.learn()
    train(talk, 2, 0)
    talk.learn(token="the same process", incarnation=0, resumed_from=1)  # its weights were not finite any more
    ledger = talk.core.ledger()
    assert (ledger["trained"], ledger["dropped"]["rolled_back"], ledger["queued"]) == (4, 4, 0)


def test_a_log_above_its_limit_drops_the_oldest_trained_data_and_counts_it() -> None:
    disk = FakeDisk()
    talk = talk_on(disk, kept_bytes=6000)
    talk.hello()
    talk.learn()
    train(talk, 30, 0)
    assert talk.core.journal.nbytes < 10_000
    talk.learn(token="u", incarnation=1, resumed_from=-1)
    ledger = talk.core.ledger()
    assert ledger["trained"] == 0
    assert ledger["dropped"]["rolled_back"] > 0
    assert ledger["queued"] > 0
    assert (ledger["dropped"]["rolled_back"] + ledger["queued"], ledger["lost"]) == (120, 0)


def test_a_log_with_another_unroll_length_or_beyond_repair_is_rejected_with_advice() -> None:
    disk = FakeDisk()
    talk = talk_on(disk)
    talk.hello()
    with pytest.raises(UserError, match=r"actors.unroll_length=2, this run has 3; change it back, or move"):
        open_journal(disk, steps=3)
    talk.learn()
    train(talk, 12, 0)
    log = SegmentLog(disk, segment_bytes=2000)
    disk.remove(log.names()[0])  # the next one's state makes up for it
    assert open_journal(disk).state.schema is not None
    disk.remove("tally.json")
    with pytest.raises(UserError, match="damaged and cannot be repaired"):
        damaged(disk)


def damaged(disk: FakeDisk) -> None:
    """Open a log whose state is gone."""
    log = SegmentLog(disk, segment_bytes=2000)
    list(log.recover())
    for name in log.names():
        disk.remove(name)
    log = SegmentLog(disk, segment_bytes=2000)
    list(log.recover())
    log.next = log.committed = 700
    log.append(msgpack.packb(["reported", 0, 1, 0]))
    log.commit(lambda: msgpack.packb(["reported", 0, 2, 0]))
    open_journal(disk)
