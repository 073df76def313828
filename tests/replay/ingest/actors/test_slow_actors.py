from __future__ import annotations

import pytest

from tests.replay.ingest.actors.uneven import NEVER, Fleet

UNROLL_S, SLOW_S = 0.1, 10.0
RUN_S = 24.0


def fleet(*seconds: float, **settings: float) -> Fleet:
    """A run of a few seconds."""
    return Fleet(seconds, **settings).run(RUN_S)  # type: ignore[arg-type]


@pytest.mark.parametrize("actors", [2, 4, 8])
@pytest.mark.parametrize("odd_s", [SLOW_S, NEVER], ids=["slow", "silent"])
def test_one_slow_or_silent_actor_of_n_costs_no_more_than_its_share(actors: int, odd_s: float) -> None:
    alike = fleet(*[UNROLL_S] * actors)
    uneven = fleet(*[UNROLL_S] * (actors - 1), odd_s)
    # Less one batch, for whole ones are counted, and 1 %, for the first late block is waited for.
    assert uneven.batches + 1 >= 0.99 * (actors - 1) / actors * alike.batches


def test_the_fast_actors_data_stay_one_version_old_and_the_slow_ones_are_as_old_as_their_unroll() -> None:
    run = fleet(UNROLL_S, UNROLL_S, SLOW_S / 10)
    # By hand: batches of 8 at 2 blocks in 0.12 s take 0.48 s, so about two of them pass during a slow unroll of 1 s.
    assert max(run.lags[0] + run.lags[1]) <= 1
    assert max(run.lags[2]) <= 3
    assert run.delivered[2] >= RUN_S / (SLOW_S / 10) - 3, "it delivers at its own rate"


def test_if_the_learner_is_the_bottleneck_a_slow_actor_changes_nothing() -> None:
    alike = fleet(*[UNROLL_S] * 4, train_s=1.0)
    uneven = fleet(*[UNROLL_S] * 3, 1.5 * UNROLL_S, train_s=1.0)
    assert uneven.batches >= alike.batches - 1
    assert uneven.over <= 4, "one block per actor, while the learner waits for its first batch"
    assert max(lag for lags in uneven.lags.values() for lag in lags) <= 1


def test_equally_fast_actors_exceed_the_capacity_only_while_the_learner_waits() -> None:
    # By hand: 8 + 4 - 1 = 11 rows; four blocks of 4 are 16, which is within 11 and one batch of 8.
    assert fleet(*[UNROLL_S] * 4, rows=4).over == 16 - 11
    assert fleet(*[UNROLL_S] * 4, rows=4, synchronous=True).over <= 0


@pytest.mark.parametrize(("actors", "batch_rows"), [(2, 8), (4, 16), (8, 32)])
def test_twice_as_many_actors_as_a_batch_needs_work_and_their_data_is_no_older(actors: int, batch_rows: int) -> None:
    # By hand: without growth, only half of them have credit at a time, and the learner waits for the other half's turn.
    half = fleet(*[UNROLL_S] * (actors // 2), rows=8, batch_rows=batch_rows)
    run = fleet(*[UNROLL_S] * actors, rows=8, batch_rows=batch_rows)
    assert run.batches >= 1.8 * half.batches
    assert max(lag for lags in run.lags.values() for lag in lags) <= 1


def test_extra_credit_does_not_make_a_busy_learners_data_older() -> None:
    run = fleet(*[UNROLL_S] * 8, rows=8, batch_rows=16, train_s=0.3)
    assert max(lag for lags in run.lags.values() for lag in lags) <= 1


def test_one_fast_actor_does_not_wait_for_three_slow_ones() -> None:
    alone = fleet(UNROLL_S)  # it holds two blocks of credit, which saves it a tick in twelve
    assert fleet(UNROLL_S, SLOW_S, SLOW_S, NEVER).batches >= 0.9 * alone.batches


def test_late_blocks_exceed_the_capacity_by_at_most_one_block_per_actor() -> None:
    run = fleet(UNROLL_S, UNROLL_S, *[2.0] * 6, rows=2)
    # By hand: 8 + 2 - 1 rows and 8 blocks of 2; `Fleet.run` compares with the line's own bound in every tick.
    assert run.over <= 16
    assert all(run.delivered[actor] >= 2 * (RUN_S / 2.0 - 3) for actor in range(2, 8))


def test_a_silent_actor_is_reported_until_its_next_block() -> None:
    run = Fleet([UNROLL_S, 8.0], silent_after=3.0).run(2.0)
    assert run.core.fleet_summary()["silent_actors"] == {}
    run.run(4.0)
    (silent,) = run.core.fleet_summary()["silent_actors"].items()
    assert silent[0] == "1"
    assert silent[1] == pytest.approx(6.0, abs=0.3)
    assert run.core.report()["silent_actors"] == 1
    assert run.core.report()["actors"]["1"]["silent"]
    run.run(4.0)
    assert run.delivered[1] == 1, "what it had in hand was taken"
    found = run.core.fleet_summary()
    assert found["silent_actors"] == {}
    assert found["slow_actors"] == {"1": pytest.approx(8.0, abs=0.1)}


def test_if_all_actors_are_silent_none_is_reported() -> None:
    run = Fleet([UNROLL_S, UNROLL_S], silent_after=1.0).run(1.0)
    for worker in run.workers:
        worker.seconds = NEVER
    run.run(5.0)
    report = run.core.report()
    assert report["silent_actors"] == 0
    assert min(actor["credit_unused_seconds"] for actor in report["actors"].values()) > 3.0


def test_a_silent_actor_that_has_taken_all_credit_first_does_not_end_the_run() -> None:
    # By hand: 2 + 3 - 1 rows and one batch; the first two hold 6 and never send, so there is no room for the third.
    run = Fleet([NEVER, NEVER, UNROLL_S], batch_rows=2, rows=3, silent_after=2.0).run(1.9)
    assert run.batches == 0
    assert run.run(4.0).batches > 20
