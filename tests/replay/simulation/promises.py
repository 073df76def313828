"""The promises that a run keeps despite all faults, checked after every tick of a simulation and at its end.

G2: stored at most once, in order, without gaps. G3: trained on at most once. G4: memory is bounded
by credit. G6: every trajectory is in one column of the ledger and none is lost. G7: without further
faults, everything continues.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.replay.serving import total
from tests.replay.simulation.simulator import TICK_S, Faults, Simulation

BAD = Faults(
    loss=0.1,
    repeat=0.1,
    delay_s=0.4,
    actor_death=0.004,
    actor_pause=0.004,
    learner_death=0.004,
    late=0.02,
    cut=0.004,
    reconnect=0.01,
    slow_learner=0.2,
    greedy=0.2,
    slow=0.15,
    silent=0.1,
)
BAD_S, GOOD_S = 12.0, 12.0
GOOD_BATCHES = 3


class BrokenPromiseError(AssertionError):
    """A promise was not kept."""


def keep(kept: bool, promise: str) -> None:
    """Raise unless a promise is kept; `python -O` does not take this away."""
    if not kept:
        raise BrokenPromiseError(promise)


@dataclass
class Promises:
    """The promises that are true after every tick."""

    before: int = 0
    batches: int = 0

    def __call__(self, run: Simulation) -> None:
        """Look at one moment."""
        check_ledger(run.core.ledger())
        now, most, returned = run.budget()
        # Over it only by what came back from a dead learner, or because who was slow or had the largest blocks has left.
        keep(now <= max(most, self.before + returned), f"G4: {now} rows are out or queued, {most} may be")
        keep(min(run.core._credit.outstanding, run.core._credit.late) >= 0, "G4: credit is not negative")
        self.before = now
        if run.batches > self.batches:
            self.batches = run.batches
            run.check_priorities()


def check_ledger(ledger: Mapping[str, Any]) -> None:
    """G6."""
    keep(ledger["produced"] == total(dict(ledger)), f"G6: the ledger balances: {ledger}")
    keep(ledger["lost"] == 0, f"G6: nothing is lost: {ledger}")
    keep(min(ledger["trained"], ledger["queued"], ledger["in_flight"]) >= 0, f"G6: no column is negative: {ledger}")


def check_stored(run: Simulation) -> None:
    """G2, with its fence, and G3, and that the ledger counts what really was stored and trained on."""
    for mark, numbers in run.stored.items():
        keep(numbers == sorted(set(numbers)), f"G2: stored once and in order: {mark}: {numbers}")
        keep(run.when_full == "drop_oldest" or numbers == list(range(len(numbers))), f"G2: no gaps: {mark}: {numbers}")
    keep(run.unfenced == 0, f"G2: {run.unfenced} trajectories of incarnations that had been replaced were stored")
    keep(sum(map(len, run.stored.values())) == run.core.journal.state.ledger.accepted, "G6: accepted is what was stored")
    for mark, numbers in run.trained.items():
        keep(len(numbers) == len(set(numbers)), f"G3: trained on at most once: {mark}: {numbers}")
        keep(set(numbers) <= set(run.stored[mark]), f"G3: nothing comes out of thin air: {mark}: {numbers}")
    counted = run.core.journal.state.ledger.trained + run.core.journal.state.ledger.rolled_back
    keep(sum(map(len, run.trained.values())) == counted, "G6: trained is what was trained on")


def check_actors(run: Simulation) -> None:
    """G1: what an actor was told is held, ingest has stored."""
    for actor in (*run.actors, *run.zombies):
        sent = actor.peer._acknowledged
        keep(
            len(run.stored[actor.mark]) >= sent, f"G1: actor {actor.mark} was told {sent}, {run.stored[actor.mark]} are stored"
        )


def good_seconds(run: Simulation) -> float:
    """The seconds without faults in which everything must go on.

    The first actor alone must have time for all batches, even if it makes a row in each half second: seed 3506 has no other.
    """
    first = run.actors[0]
    blocks = GOOD_BATCHES * run.batch_rows / first.rows
    return max(GOOD_S, GOOD_S / 3 + blocks * (first.unroll_s + 2 * TICK_S))


def simulate(seed: int, faults: Faults = BAD) -> Simulation:
    """Run once with faults and then without, and check every promise. The seed determines everything.

    Raises:
        BrokenPromiseError: names the promise; `simulate(seed)` repeats the run.
    """
    run, promises = Simulation(seed, faults), Promises()
    run.run(BAD_S, promises)
    check_actors(run)
    run.calm()
    before = run.batches
    run.run(good_seconds(run), promises)
    keep(run.batches >= before + GOOD_BATCHES, "G7: when nothing goes wrong any more, everything goes on")
    check_actors(run)
    check_stored(run)
    return run
