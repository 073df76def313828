"""Batches with sampled rows: always the requested share, counted separately, and dropped if they are not trained on."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from protocol.data.trajectory import BlockSize
from protocol.wire import messages
from protocol.wire.codec import encode
from replay.ingest.core import IngestCore
from replay.log.journal import Journal
from replay.store.buffer import BufferSettings
from tests.replay.blocks import SCHEMA
from tests.replay.conversation import Conversation, batches_in
from tests.replay.log.fake_disk import FakeDisk

HALF = BufferSettings(fraction=0.5, size=100, max_bytes=2**20)


def conversation(rows: int, *, buffer: BufferSettings = HALF, **settings: Any) -> Conversation:
    """Ingest with this many rows queued, numbered from 0, and a learner of one rank."""
    talk = Conversation(buffer=buffer, queue_batches=8.0, **settings)
    talk.hello(rows=2)
    for first in range(0, rows, 2):
        talk.send(first)
    talk.learn()
    return talk


def one_batch(answers: list[Any]) -> tuple[int, list[int]]:
    ((batch, rows),) = batches_in(answers)
    return batch.batch_id, rows


def test_the_first_batch_is_all_fresh_and_the_next_ones_half() -> None:
    # A batch is cut ahead: the second when nothing is trained on yet, so the third is the first that can be mixed.
    talk = conversation(12)
    first, rows = one_batch(talk.get())
    assert rows == [0, 1, 2, 3]
    second, rows = one_batch(talk.get(consumed=first))
    assert rows == [4, 5, 6, 7]
    third, rows = one_batch(talk.get(consumed=second))
    assert rows[:2] == [8, 9]
    assert set(rows[2:]) < {0, 1, 2, 3, 4, 5, 6, 7}
    assert len(set(rows)) == 4
    talk.consumed(third)
    ledger = talk.core.ledger()
    assert (ledger["trained"], ledger["replayed"], ledger["queued"]) == (10, 2, 2)
    assert (ledger["lost"], ledger["in_flight"]) == (0, 0)


def test_fresh_rows_are_marked_and_only_their_steps_count() -> None:
    talk = conversation(8)
    first, _ = one_batch(talk.get())
    second, _ = one_batch(talk.get(consumed=first))
    talk.send(8)
    talk.core.receive_batches(b"rank 0", encode_get(talk, second))
    talk.core.turn(0.0)
    (marks,) = [
        SCHEMA.batch.views(payload, BlockSize(4, 2, 0, 0))["fresh"].tolist()
        for _, (header, payload) in talk.core.outgoing_batches()
        if len(payload) == SCHEMA.batch.nbytes(BlockSize(4, 2, 0, 0))
    ]
    assert marks == [True, True, False, False]
    third = second + 1
    talk.consumed(third)
    assert talk.core.fleet_summary()["env_steps_trained"] == 2 * (4 + 4 + 2), "2 steps of each fresh row, and of no other"


def encode_get(talk: Conversation, consumed: int) -> Any:
    talk.requests[0] += 1
    return encode(messages.Get(0, "t", talk.requests[0], 0, consumed, consumed, 0))[0]


def test_once_it_replays_a_batch_needs_fewer_fresh_rows() -> None:
    talk = conversation(10)
    first, _ = one_batch(talk.get())
    second, _ = one_batch(talk.get(consumed=first))
    _, rows = one_batch(talk.get(consumed=second))
    assert rows[:2] == [8, 9], "two are enough where the first batches took four"
    assert talk.core.fleet_summary()["queue"]["capacity"] < 8 * 4, "and fewer wait, so that fresh data stays fresh"


def test_rows_that_a_dead_learner_had_sampled_are_dropped_and_its_fresh_rows_return() -> None:
    talk = conversation(14)
    first, _ = one_batch(talk.get())
    second, _ = one_batch(talk.get(consumed=first))
    _, rows = one_batch(talk.get(consumed=second))
    assert rows[:2] == [8, 9]
    assert talk.core.ledger()["in_flight"] == 2, "the sampled rows are in flight nowhere"
    talk.requests.clear()
    talk.learn(token="u", resumed_from=99)
    _, again = one_batch(talk.get(token="u"))
    assert again[:2] == [8, 9]
    ledger = talk.core.ledger()
    assert (ledger["trained"], ledger["replayed"], ledger["lost"]) == (8, 0, 0)
    assert ledger["produced"] == 14 == ledger["trained"] + ledger["queued"] + ledger["in_flight"]


def test_every_rank_gets_the_same_share() -> None:
    talk = Conversation(buffer=HALF, batch_rows=8, queue_batches=8.0)
    talk.hello(rows=2)
    for first in range(0, 24, 2):
        talk.send(first)
    for rank in (0, 1):
        talk.learn(rank, 2, token=f"t{rank}")
    consumed = {0: -1, 1: -1}
    for _ in range(3):
        parts = []
        for rank in (0, 1):
            found = batches_in(talk.get(rank, token=f"t{rank}", consumed=consumed[rank]))
            parts += [(rank, batch, rows) for batch, rows in found]
        for rank, batch, _ in parts:
            consumed[rank] = batch.batch_id
    fresh = [[row for row in rows if row >= 16] for _, _, rows in parts]
    assert fresh == [[16, 17], [18, 19]], "two fresh rows of four for each, in order"
    sampled = [row for _, _, rows in parts for row in rows if row < 16]
    assert len(set(sampled)) == 4, "no two ranks train on the same sampled row in one learner step"


def test_the_age_of_sampled_rows_is_not_counted_as_policy_lag() -> None:
    talk = conversation(12)
    first, _ = one_batch(talk.get())
    second, _ = one_batch(talk.get(consumed=first))
    talk.hub(9)
    talk.get(consumed=second, version=9)
    assert talk.core.report()["lag"]["cumulative"][-1] == 4 + 4 + 2


def test_the_buffers_size_is_reported() -> None:
    talk = conversation(4)
    assert talk.core.fleet_summary()["buffer"] == {"trajectories": 0, "bytes": 0, "capacity": 100}
    batch, _ = one_batch(talk.get())
    talk.consumed(batch)
    found = talk.core.fleet_summary()["buffer"]
    assert found["trajectories"] == 4
    assert found["bytes"] > 0
    assert Conversation().core.fleet_summary()["buffer"] == {"trajectories": 0, "bytes": 0, "capacity": 0}


@pytest.mark.parametrize("fraction", [0.0, 0.2])
def test_without_a_fraction_nothing_is_sampled(fraction: float) -> None:
    # A fifth of four rows is less than one; the run's settings refuse it, and the server would train on fresh rows alone.
    talk = conversation(12, buffer=BufferSettings(fraction=fraction, size=100, max_bytes=2**20))
    consumed = -1
    for expected in ([0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]):
        consumed, rows = one_batch(talk.get(consumed=consumed))
        assert rows == expected


BY_PRIORITY = BufferSettings(
    fraction=0.5, size=100, max_bytes=2**20, sampling="prioritised", priority_exponent=1.0, importance_exponent=1.0
)


def kept_priorities(talk: Conversation) -> dict[int, float]:
    """By the trajectory's number."""
    buffer = talk.core.replayed.buffer
    assert buffer is not None
    kept = buffer.kept(buffer.standing())
    return {int(piece.arrays["observations"][piece.start, 0, 1]): past.priority for piece, past in kept}


def test_the_learners_priority_is_kept_with_each_row() -> None:
    talk = conversation(12, buffer=BY_PRIORITY)
    first, _ = one_batch(talk.get())
    talk.consumed(first, priorities=[1, 2, 3, 4])
    assert kept_priorities(talk) == {0: 1, 1: 2, 2: 3, 3: 4}
    second, rows = one_batch(talk.get(consumed=first))
    talk.consumed(second, priorities=[10 + row for row in rows])
    third, rows = one_batch(talk.get(consumed=second))
    assert rows[:2] == [8, 9]
    talk.consumed(third, priorities=[20 + row for row in rows])
    assert kept_priorities(talk).items() >= {row: 20 + row for row in rows}.items()


def test_a_batch_without_priorities_is_accepted() -> None:
    talk = conversation(12, buffer=BY_PRIORITY)
    first, _ = one_batch(talk.get())
    second, _ = one_batch(talk.get(consumed=first))  # CONSUMED was lost; GET says it
    talk.consumed(first, priorities=[1, 2, 3, 4])  # and comes late
    assert all(np.isnan(priority) for priority in kept_priorities(talk).values())
    talk.consumed(second, priorities=[5, 6, 7, 8])
    assert sorted(priority for priority in kept_priorities(talk).values() if priority > 0) == [5, 6, 7, 8]


def test_priorities_belong_to_the_batch_that_their_message_names() -> None:
    talk = conversation(12, buffer=BY_PRIORITY)
    one_batch(talk.get())
    second, _ = one_batch(talk.get())
    talk.consumed(second, priorities=[5, 6, 7, 8])
    kept = kept_priorities(talk)
    assert {row: kept[row] for row in (4, 5, 6, 7)} == {4: 5, 5: 6, 6: 7, 7: 8}
    assert all(np.isnan(kept[row]) for row in (0, 1, 2, 3))


def test_bad_priorities_are_rejected_and_the_batch_counts_with_the_next_message() -> None:
    talk = conversation(8, buffer=BY_PRIORITY)
    first, _ = one_batch(talk.get())
    talk.consumed(first, priorities=[1, 2, 3])
    assert +Counter(talk.core.report()["rejected_by"]) == {"priorities": 1}
    assert talk.core.ledger()["trained"] == 0
    talk.get(consumed=first)
    assert talk.core.ledger()["trained"] == 4


def test_a_learner_is_asked_for_priorities_only_if_they_are_used() -> None:
    for buffer, wanted in ((BY_PRIORITY, True), (HALF, False), (replace(BY_PRIORITY, fraction=0.0), False)):
        talk = conversation(4, buffer=buffer)
        (welcome,) = [answer for answer in talk.get() if isinstance(answer, messages.BatchWelcome)]
        assert welcome.priorities is wanted
        if not wanted:
            talk.consumed(0, priorities=[1, 2, 3, 4])
            assert +Counter(talk.core.report()["rejected_by"]) == {"priorities": 1}


def test_importance_weights_have_one_scale_over_all_ranks() -> None:
    talk = Conversation(buffer=BY_PRIORITY, batch_rows=8, queue_batches=8.0)
    talk.hello(rows=2)
    for first in range(0, 24, 2):
        talk.send(first)
    for rank in (0, 1):
        talk.learn(rank, 2, token=f"t{rank}")
    parts: dict[int, tuple[int, list[int]]] = {}
    for _ in range(3):
        for rank in (0, 1):
            if rank in parts:
                talk.consumed(parts[rank][0], rank, f"t{rank}", priorities=[2.0**row for row in parts[rank][1]])
        for rank in (0, 1):
            parts[rank] = one_batch(talk.get(rank, token=f"t{rank}", consumed=parts[rank][0] if rank in parts else -1))
    held = [part for rank in (0, 1) for part in talk.core._batches._ranks[rank].held]
    counting = {
        int(number): float(count)
        for part in held
        for number, count in zip(part.arrays["observations"][2:, 0, 1], part.arrays["importance"][2:], strict=True)
    }
    assert len(counting) == 4
    assert all(part.arrays["importance"][:2].tolist() == [1, 1] for part in held), "fresh rows count for 1"
    # beta = alpha = 1: a row counts for the smallest priority among the four over its own.
    lowest = 2.0 ** min(counting)
    assert counting == pytest.approx({number: lowest / 2.0**number for number in counting}, rel=1e-3)


def test_priorities_of_a_batch_from_an_earlier_server_are_ignored() -> None:
    disk = FakeDisk()
    talk = Conversation(buffer=BY_PRIORITY, queue_batches=8.0)
    settings = talk.core._settings

    def served() -> IngestCore:
        journal = Journal.open(disk, durable=True, keep_trained=False, steps=2, kept_bytes=2**20, segment_bytes=2000)
        return IngestCore(settings, journal=journal, server=1)

    talk.core = served()
    talk.hub(0)
    talk.hello(rows=2)
    for first in range(0, 12, 2):
        talk.send(first)
    talk.learn()
    first, _ = one_batch(talk.get())
    second, _ = one_batch(talk.get(consumed=first))
    third, rows = one_batch(talk.get(consumed=second))
    talk.core = served()
    # What it can know of the batch, and of the one that was cut ahead, are two fresh rows each; the learner tells of all four.
    assert (rows[:2], talk.core.ledger()["in_flight"]) == ([8, 9], 4)
    talk.consumed(third, priorities=[1, 2, 3, 4])
    assert not +Counter(talk.core.report()["rejected_by"])
    assert (talk.core.ledger()["trained"], talk.core.ledger()["in_flight"]) == (10, 2)
