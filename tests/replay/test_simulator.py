from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.replay.serving import total
from tests.replay.simulator import Faults, Simulation

BAD = Faults(loss=0.1, repeat=0.1, delay_s=0.4, actor_death=0.004, actor_pause=0.004, learner_death=0.004)
SEEDS_A_TEST = 25


@dataclass
class Promises:
    """What must hold after every tick of every run."""

    before: int = 0

    def __call__(self, run: Simulation) -> None:
        ledger = run.core.ledger()
        assert ledger["produced"] == total(ledger)
        assert ledger["lost"] == 0
        now, capacity, returned = run.budget()
        # Over capacity only by what came back from a dead learner, or because the actor with the largest blocks has left.
        assert now <= max(capacity, self.before + returned), f"{now} rows are out or queued, {capacity} may be"
        self.before = now


def check_stored(run: Simulation) -> None:
    """Stored at most once, in order, and without gaps unless the actor itself dropped some; each counted."""
    for numbers in run.stored.values():
        assert numbers == sorted(set(numbers))
        assert run.when_full == "drop_oldest" or numbers == list(range(len(numbers)))
    assert sum(map(len, run.stored.values())) == run.core._ledger.accepted
    for mark, numbers in run.trained.items():  # trained on at most once, and never out of thin air
        assert len(numbers) == len(set(numbers))
        assert set(numbers) <= set(run.stored[mark])
    assert sum(map(len, run.trained.values())) == run.core._ledger.trained


@pytest.mark.parametrize("first", range(0, 200, SEEDS_A_TEST))
def test_trajectories_are_stored_once_in_order_within_the_budget_and_all_accounted_for(first: int) -> None:
    for seed in range(first, first + SEEDS_A_TEST):
        run, promises = Simulation(seed, BAD), Promises()
        run.run(12, promises)
        run.calm()  # nothing goes wrong any more, so everything must go on
        before = run.batches
        run.run(10, promises)
        assert run.batches >= before + 3, f"seed {seed} has come to a halt"
        check_stored(run)
