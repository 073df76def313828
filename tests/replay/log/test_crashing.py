"""Servers that die with their host, their disk, their actors and their learner lose nothing that was acknowledged."""

from __future__ import annotations

import msgpack
import pytest

from tests.replay.log.crashing import CrashingSimulation, ServerFaults
from tests.replay.serving import total

BAD = ServerFaults(
    loss=0.1,
    repeat=0.1,
    delay_s=0.4,
    actor_death=0.004,
    actor_pause=0.004,
    learner_death=0.01,
    server_death=0.01,
    host_death=0.01,
    disk_full=0.01,
)
KILLS = ServerFaults(loss=0.05, delay_s=0.2, actor_death=0.004, learner_death=0.01, server_death=0.02)
LATE = ServerFaults(loss=0.05, repeat=0.1, delay_s=0.8, server_death=0.1)
"""Messages take nearly as long as a server lives."""
SEEDS_A_TEST = 15


def check_promised(run: object) -> None:
    """What holds after every tick."""
    assert isinstance(run, CrashingSimulation)
    run.check_acknowledged()


def check_books(run: CrashingSimulation) -> None:
    """Check that the ledger balances, and that the log leads to the server's state."""
    ledger = run.core.ledger()
    assert ledger["produced"] == total(ledger)
    assert ledger["lost"] >= 0
    journal = run.core.journal
    if journal.committed == journal.next and not journal.stalled:
        assert msgpack.packb(run.reread().to_plain()) == msgpack.packb(journal.state.to_plain())


@pytest.mark.parametrize(
    "first", [0, *(pytest.param(first, marks=pytest.mark.slow) for first in range(SEEDS_A_TEST, 600, SEEDS_A_TEST))]
)
@pytest.mark.parametrize("again", [False, True])
def test_in_durable_mode_nothing_acknowledged_is_lost_and_nothing_is_trained_on_twice(first: int, again: bool) -> None:
    def check(run: object) -> None:
        assert isinstance(run, CrashingSimulation)
        run.check_acknowledged()
        run.check_priorities()
        ledger = run.core.ledger()
        assert (ledger["lost"], ledger["produced"]) == (0, total(ledger))

    crashes = restored = 0
    for seed in range(first, first + SEEDS_A_TEST):
        run = CrashingSimulation(seed, BAD, again=again)
        run.run(12, check)
        run.calm()
        before = run.batches
        run.run(14, check)
        assert run.batches >= before + 3, f"seed {seed} has come to a halt"
        assert max(run.times_trained().values()) == 1, f"seed {seed}: trained on twice in the line that survives"
        check_books(run)
        crashes += run.crashes
        restored += run.saver.restored
        if again:
            assert run.core.ledger()["dropped"]["rolled_back"] == 0
    assert crashes > SEEDS_A_TEST
    if first == 0:  # so few seeds need not have one
        assert restored > 0, "no server came back with a snapshot of its buffer, so nothing here was about one"


def test_messages_that_outlive_their_server_cause_no_batch_to_be_trained_on_twice() -> None:
    for seed in range(12, 22):
        run = CrashingSimulation(seed, LATE)
        run.run(12, check_promised)
        run.calm()
        run.run(6, check_promised)
        assert max(run.times_trained().values()) == 1, f"seed {seed}"
        assert run.core.ledger()["lost"] == 0
        assert run.crashes > 1
        trained = {row for _, rows in run.surviving for row in rows}
        assert run.core.ledger()["trained"] <= len(trained), f"seed {seed}: a batch that never arrived counts as trained"


def test_in_memory_mode_data_that_died_with_the_server_is_counted_as_lost() -> None:
    lost = 0
    for seed in range(15):
        run = CrashingSimulation(seed, KILLS, durable=False)
        run.run(12, lambda _: None)
        run.calm()
        before = run.batches
        run.run(14, lambda _: None)
        assert run.batches >= before + 3, f"seed {seed} has come to a halt"
        assert max(run.times_trained().values()) == 1
        check_books(run)
        if run.crashes == 0:
            assert run.core.ledger()["lost"] == 0
        lost += run.core.ledger()["lost"]
    assert lost > 0
