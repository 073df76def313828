from __future__ import annotations

from dataclasses import dataclass, field

from replay.credit import CreditLine
from replay.pace import Pace


@dataclass(eq=False)
class Actor:
    rows: int
    credit: int = 0
    waits: bool = False
    open: bool = True
    since: float = 0.0
    pace: Pace = field(default_factory=Pace)
    slow: bool = False
    late: bool = False
    silent: bool = False


def line_of(*actors: Actor, batch_rows: int = 8, queue_batches: float = 1.0, row_bytes: int = 1) -> CreditLine:
    line = CreditLine(batch_rows=batch_rows, queue_batches=queue_batches)
    line.resize(actors, row_bytes)
    for actor in actors:
        line.want(actor)
    return line


def test_credit_and_queue_together_stay_within_the_batches_that_may_wait_and_a_block_less_a_row() -> None:
    actors = [Actor(3) for _ in range(5)]
    line = line_of(*actors)
    line.grant(queued=0, now=0.0)
    # By hand: 8 + 3 - 1 = 10 rows, so three blocks of 3.
    assert line.capacity == 10
    assert line.outstanding == 9
    assert [actor.credit for actor in actors] == [3, 3, 3, 0, 0]


def test_while_no_batch_can_be_cut_there_is_room_for_the_largest_block() -> None:
    large = Actor(5)
    line = line_of(Actor(1), large)
    line.take_back(large)
    # By hand: 7 rows wait, one short of a batch of 8; 8 + 5 - 1 - 7 = 5 rows are free.
    assert line.capacity - 7 == 5


def test_a_large_block_at_the_head_of_the_line_is_not_overtaken() -> None:
    large, small = Actor(8), Actor(1)
    line = line_of(large, small)  # 8 + 8 - 1 = 15 rows
    assert line.grant(queued=8, now=0.0) == []
    assert line.grant(queued=7, now=0.0) == [large]


def test_an_actor_that_has_left_does_not_hold_up_the_line() -> None:
    large, small = Actor(8), Actor(1)
    line = line_of(large, small)
    large.open = False
    line.resize([small], 1)
    assert line.grant(queued=7, now=0.0) == [small]


def test_an_actor_holds_one_block_when_room_is_short_and_more_when_there_is_plenty() -> None:
    short, plenty = Actor(2), Actor(2)
    line_of(short, batch_rows=4).grant(queued=0, now=0.0)
    assert short.credit == 2
    # By hand: 64 + 1 rows over 4 shares of 2 rows is 8 blocks, of which 16 rows.
    line_of(plenty, batch_rows=64).grant(queued=0, now=0.0)
    assert plenty.credit == 16


def test_no_actor_holds_more_than_16_blocks_or_16_mb() -> None:
    many, large = Actor(1), Actor(1)
    line_of(many, batch_rows=1000).grant(queued=0, now=0.0)
    assert many.credit == 16
    line_of(large, batch_rows=1000, row_bytes=4 * 2**20).grant(queued=0, now=0.0)
    assert large.credit == 4


def test_what_is_sent_uses_credit_up_and_what_is_taken_back_comes_free() -> None:
    first, second = Actor(2), Actor(2)
    line = line_of(first, second)
    line.grant(queued=0, now=0.0)
    assert (first.credit, second.credit, line.outstanding) == (2, 2, 4)
    assert line.admit(first, 2, queued=0, now=0.0)
    assert (first.credit, line.outstanding) == (0, 2)
    line.take_back(second)
    assert (second.credit, line.outstanding) == (0, 0)


def test_rows_without_credit_are_admitted_only_where_there_is_room() -> None:
    actor = Actor(2)
    line = line_of(actor)  # 8 + 2 - 1 = 9 rows
    assert line.admit(actor, 2, queued=7, now=0.0)
    assert not line.admit(actor, 2, queued=8, now=0.0)
    assert line.outstanding == 0
