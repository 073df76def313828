"""Synchronous actors: a batch is collected with the policy that the last batch was trained into."""

from __future__ import annotations

from itertools import chain

import pytest

from tests.replay.ingest.actors.uneven import Fleet


def lags_of(fleet: Fleet) -> set[int]:
    """All ages of the rows that were delivered, without the first two batches."""
    return set(chain.from_iterable(lags[2 * fleet.batch_rows :] for lags in fleet.lags.values()))


@pytest.mark.parametrize("train_s", [0.0, 0.05, 1.0])
@pytest.mark.parametrize(("actors", "rows"), [(1, 8), (2, 4), (3, 2), (8, 1)])
def test_every_row_comes_from_the_newest_policy(actors: int, rows: int, train_s: float) -> None:
    fleet = Fleet([0.05] * actors, batch_rows=8, rows=rows, train_s=train_s, synchronous=True).run(40)
    assert fleet.batches > 20
    assert lags_of(fleet) == {0}


def test_without_it_the_actors_collect_while_the_learner_trains() -> None:
    fleet = Fleet([0.05] * 2, batch_rows=8, rows=4, train_s=0.05).run(40)
    assert lags_of(fleet) == {1}


def test_actors_and_learner_take_turns() -> None:
    # A batch takes 8 rows / 2 actors / 4 rows = 1 block each: 0.1 s to collect and 0.1 s to train on.
    overlapping, turns = (
        Fleet([0.1] * 2, batch_rows=8, rows=4, train_s=0.1, synchronous=wanted).run(60) for wanted in (False, True)
    )
    assert 0.45 < turns.batches / overlapping.batches < 0.75


def test_the_batch_of_a_learner_that_died_is_trained_on_again_before_new_data_is_collected() -> None:
    fleet = Fleet([0.05] * 2, batch_rows=8, rows=4, train_s=1000.0, synchronous=True).run(5)
    assert fleet.batches == 1
    produced = sum(worker.made for worker in fleet.workers)
    fleet.restart_learner(train_s=0.05)
    fleet.run(0.03)
    assert sum(worker.made for worker in fleet.workers) == produced
    fleet.run(10)
    assert fleet.batches > 20
    assert lags_of(fleet) == {0}
