from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from replay.ingest.actors.credit import LENDING_BATCHES, SILENT_AFTER_S, CreditLine, batches_for_all, most_rows_while_waiting
from replay.ingest.actors.pace import Pace, fleet_seconds


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


def line_of(
    *actors: Actor, batch_rows: int = 8, queue_batches: float = 1.0, row_bytes: int = 1, synchronous: bool = False
) -> CreditLine:
    line = CreditLine(batch_rows=batch_rows, queue_batches=queue_batches, synchronous=synchronous)
    line.resize(actors, row_bytes)
    for actor in actors:
        line.want(actor)
    return line


def test_credit_and_queue_together_stay_within_the_waiting_batches_plus_a_block_minus_a_row() -> None:
    actors = [Actor(3) for _ in range(5)]
    line = line_of(*actors)
    line.grant(queued=0, now=0.0)
    # By hand: 8 + 3 - 1 = 10 rows, so three blocks of 3.
    assert line.capacity == 10
    assert line.outstanding == 9
    assert [actor.credit for actor in actors] == [3, 3, 3, 0, 0]


@pytest.mark.parametrize(("fresh", "block", "actors"), [(24, 32, 2), (64, 64, 4), (32, 16, 8), (7, 3, 5), (1, 1, 1)])
def test_with_enough_batches_every_actor_collects_while_the_learner_waits(fresh: int, block: int, actors: int) -> None:
    waiting, batches = fresh - 1, batches_for_all(fresh, block, actors)
    limit = most_rows_while_waiting(batches, fresh, block, synchronous=False)
    assert waiting + actors * block <= limit
    line = line_of(*(Actor(block) for _ in range(actors)), batch_rows=fresh, queue_batches=batches)
    line.learner_waits(True)
    assert len(line.grant(queued=waiting, now=0.0)) >= actors


def test_while_the_learner_waits_credit_for_one_more_batch_is_given() -> None:
    # By hand: 8 + 4 - 1 = 11 rows, so two blocks of 4. One more batch makes 19, so four.
    actors = [Actor(4) for _ in range(5)]
    line = line_of(*actors)
    assert line.grant(queued=0, now=0.0) == actors[:2]
    line.learner_waits(True)
    assert line.grant(queued=0, now=0.0) == actors[2:4]
    assert (line.capacity, line.bound) == (11, 19)
    line.learner_waits(False)
    assert line.room(queued=0) == 11 - 16


def test_the_limit_grows_by_no_more_than_one_block_per_actor() -> None:
    line = line_of(Actor(2), Actor(1))
    line.learner_waits(True)
    assert line.bound == line.room(queued=0) == 8 + 2 - 1 + 3


def test_credit_of_synchronous_actors_does_not_grow_because_their_data_would_be_one_version_old() -> None:
    actors = [Actor(4) for _ in range(5)]
    line = line_of(*actors, synchronous=True)
    line.learner_waits(True)
    assert line.grant(queued=0, now=0.0) == actors[:2]
    assert line.bound == 11


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


def test_an_actor_that_has_left_does_not_block_the_line() -> None:
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


def test_blocks_use_up_credit_and_credit_that_is_taken_back_is_free_again() -> None:
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


def used(line: CreditLine, actor: Actor, seconds: float, now: float) -> None:
    """Use an actor's credit `seconds` after it was given."""
    actor.since = now - seconds
    assert line.admit(actor, actor.rows, queued=0, now=now)


def fast_and_slow(*, rows: int = 1) -> tuple[CreditLine, Actor, Actor]:
    """Two actors, of which one has sent a block within 0.1 s and the other holds its credit since 0 s; it is 0.3 s."""
    fast, slow = Actor(rows), Actor(rows)
    line = line_of(fast, slow)  # 8 + rows - 1 of capacity
    line.grant(queued=0, now=0.0)
    used(line, fast, 0.1, now=0.3)
    return line, fast, slow


def test_credit_unused_for_twice_the_fleets_time_is_late_and_not_counted_while_the_learner_waits() -> None:
    line, _, slow = fast_and_slow()
    # By hand: the fleet takes 0.1 s; at 0.2 s credit is not late yet, at 0.3 s it is.
    slow.since = 0.1
    line.look([slow], now=0.3)
    assert not slow.late, "nobody in this list has sent a block"
    line, fast, slow = fast_and_slow()
    line.look([fast, slow], now=0.3)
    assert slow.late
    assert (line.outstanding, line.late) == (0, 1)
    assert line.room(queued=4) == 8 - 4 - 1, "the learner has not had to wait, so it is counted"
    line.learner_waits(True)
    line.learner_waits(False)
    assert line.room(queued=4) == 8 - 4


def test_while_the_learner_waits_for_a_slow_fleet_every_actor_that_is_not_late_may_hold_one_block_more() -> None:
    line, fast, slow = fast_and_slow()
    line.look([fast, slow], now=0.3)
    line.learner_waits(True)
    # By hand: of 8 rows none is out, 7 wait, and one block of the other actor comes to the room.
    assert line.room(queued=7) == 8 - 7 + 1
    assert line.bound == 8 + 2


def test_late_credit_is_counted_again_when_the_learner_has_not_waited_for_eight_batches() -> None:
    line, fast, slow = fast_and_slow()
    line.look([fast, slow], now=0.3)
    line.learner_waits(True)
    line.learner_waits(False)
    for _ in range(LENDING_BATCHES - 1):
        line.cut()
    assert line.room(queued=0) == 8
    line.cut()
    assert line.room(queued=0) == 7


def test_a_slow_actor_keeps_credit_for_one_block_and_is_told() -> None:
    fast, slow = Actor(2), Actor(2)
    line = line_of(fast, slow, batch_rows=64)
    line.grant(queued=0, now=0.0)
    assert slow.credit == 8  # by hand: 65 rows over 4 shares of 4 rows are 4 blocks
    used(line, fast, 0.1, now=0.3)
    assert line.look([fast, slow], now=0.3) == [slow]
    assert (slow.credit, line.late, line.outstanding) == (2, 2, 6)


def test_a_late_block_is_accepted_and_the_actors_next_credit_is_late_from_the_start() -> None:
    line, fast, slow = fast_and_slow()
    line.look([fast, slow], now=0.3)
    assert line.admit(slow, 1, queued=8, now=10.0), "there is no room, but it has credit"
    assert (slow.credit, line.late, line.outstanding) == (0, 0, 0)
    line.look([fast, slow], now=10.0)
    assert slow.slow
    line.want(slow)
    assert line.grant(queued=0, now=10.0) == [slow]
    assert (slow.credit, line.late, line.outstanding) == (1, 1, 0)


def test_an_actor_that_is_fast_again_is_not_slow_any_more() -> None:
    line, fast, slow = fast_and_slow()
    for seconds in (9.0, 9.0, 0.1, 0.1, 0.1):
        slow.credit, line.outstanding = 1, line.outstanding + (slow.credit == 0)
        used(line, slow, seconds, now=20.0)
    line.look([fast, slow], now=20.0)
    assert not slow.slow


def test_late_credit_of_a_dead_actor_is_free_again() -> None:
    line, fast, slow = fast_and_slow()
    line.look([fast, slow], now=0.3)
    line.take_back(slow)
    assert (slow.credit, slow.late, line.late, line.outstanding) == (0, False, 0, 0)


def test_an_actor_is_silent_when_others_have_sent_data_for_half_a_minute_and_it_has_not() -> None:
    line, fast, slow = fast_and_slow()
    for second in range(1, 40):
        line.look([fast, slow], now=second)
    assert slow.late
    assert not slow.silent, "nobody has sent anything since 0.3 s: that says nothing of this one"
    line, fast, slow = fast_and_slow()
    line.look([fast, slow], now=0.3)
    for second in range(1, 32):
        line.want(fast)
        line.grant(queued=0, now=second - 0.1)
        assert line.admit(fast, 1, queued=0, now=second)
        line.look([fast, slow], now=second)
        assert slow.silent == (second > SILENT_AFTER_S), second
    assert line.silent == [slow]
    assert line.admit(slow, 1, queued=0, now=32.0)
    line.look([fast, slow], now=33.0)
    assert line.silent == []


def test_an_actor_whose_blocks_take_long_is_not_silent_before_four_times_its_own_time() -> None:
    line, fast, slow = fast_and_slow()
    slow.pace.took(20.0)
    for now, silent in ((79.0, False), (81.0, True)):
        fast.credit, line.outstanding = 1, 1
        line._looked_at = now - 0.1
        assert line.admit(fast, 1, queued=0, now=now)
        line.look([fast, slow], now=now)
        assert slow.silent == silent


def test_time_in_which_this_process_stood_still_does_not_count_against_the_actors() -> None:
    line, fast, slow = fast_and_slow()
    slow.since = 0.25
    line.look([fast, slow], now=0.3)
    line.look([fast, slow], now=60.3)  # stopped for a minute; what came meanwhile is still to be read
    assert not slow.late


def test_an_actors_pace_is_the_lower_median_of_its_last_five_blocks() -> None:
    pace = Pace()
    assert pace.seconds is None
    for seconds, wanted in ((9.0, 9.0), (1.0, 1.0), (2.0, 2.0), (3.0, 2.0), (4.0, 3.0), (5.0, 3.0)):
        pace.took(seconds)  # the last five at the end: 1 2 3 4 5
        assert pace.seconds == wanted


def test_the_fleets_pace_is_one_that_a_quarter_of_the_actors_keep() -> None:
    assert fleet_seconds([Pace()]) is None
    # By hand: of 2 and of 4 actors the fastest, of 8 the second fastest.
    for count, wanted in ((2, 1.0), (4, 1.0), (8, 2.0)):
        paces = [Pace() for _ in range(count)]
        for number, pace in enumerate(paces):
            pace.took(number + 1.0)
        assert fleet_seconds(reversed(paces)) == wanted
