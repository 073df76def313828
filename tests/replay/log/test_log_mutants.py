"""Faults in the log and in recovery, one at a time: simulated deaths of the server and its host must detect each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import replay.log.records
from replay.ingest.actors.sessions import ActorSessions
from replay.log.journal import Journal
from replay.log.records import FoundRecord
from replay.log.segments import SegmentLog
from tests.replay.log import test_segments as test_log
from tests.replay.log.crashing import CrashingSimulation
from tests.replay.log.fake_disk import FakeDisk
from tests.replay.log.test_crashing import BAD, check_books
from tests.replay.serving import total

SEEDS = 40
Plant = Callable[[pytest.MonkeyPatch], None]


def acknowledges_what_waits_to_be_written(patch: pytest.MonkeyPatch) -> None:
    """Records in memory count as committed."""
    patch.setattr(Journal, "committed", property(lambda self: self.next))


def does_not_sync(patch: pytest.MonkeyPatch) -> None:
    """Written data counts as synced."""
    patch.setattr(FakeDisk, "sync", lambda _self: None)


def does_not_note(name: str) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> None:
        original = Journal.record

        def mutant(self: Journal, kind: str, *values: Any, **more: Any) -> int:
            return self.next if kind == name else original(self, kind, *values, **more)

        patch.setattr(Journal, "record", mutant)

    plant.__name__ = f"does_not_note_{name}"
    return plant


def forgets_its_actors(patch: pytest.MonkeyPatch) -> None:
    """A new server starts every actor at 0."""
    patch.setattr(ActorSessions, "restore", lambda _self: None)


def removes_what_still_waits(patch: pytest.MonkeyPatch) -> None:
    """Every closed segment is removed."""
    original = SegmentLog.remove_before
    patch.setattr(SegmentLog, "remove_before", lambda self, _number: original(self, self.next))


FAULTS: tuple[Plant, ...] = (
    acknowledges_what_waits_to_be_written,
    does_not_sync,
    does_not_note("stored"),
    does_not_note("trained"),
    does_not_note("cut"),
    does_not_note("returned"),
    forgets_its_actors,
    removes_what_still_waits,
)


def run_durable(seed: int) -> None:
    """One run in which servers and hosts die, as in test_crashing."""

    def check(run: Any) -> None:
        run.check_acknowledged()
        ledger = run.core.ledger()
        assert (ledger["lost"], ledger["produced"]) == (0, total(ledger))

    run = CrashingSimulation(seed, BAD)
    run.run(12, check)
    run.calm()
    before = run.batches
    run.run(14, check)
    assert run.batches >= before + 3
    assert max(run.times_trained().values()) == 1
    check_books(run)


def test_without_a_fault_the_checks_pass() -> None:
    for seed in range(5):
        run_durable(seed)


@pytest.mark.parametrize("plant", FAULTS, ids=lambda plant: plant.__name__)
def test_simulated_deaths_show_a_fault_in_the_log(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    for seed in range(SEEDS):
        try:
            run_durable(seed)
        except Exception:
            return
    raise AssertionError(plant.__doc__ or plant.__name__)


def test_a_log_without_checksums_accepts_flipped_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    # The simulated disk leaves no record with a mark and lengths that fit, so the test of every flipped bit shows this one.
    original = replay.log.records.read_numbers

    def mutant(data: bytes, offset: int) -> tuple[FoundRecord, int] | None:
        found = original(data, offset)
        return None if found is None else (found[0], replay.log.records.checksum_at(data, offset, found[0]))

    monkeypatch.setattr(replay.log.records, "read_numbers", mutant)
    with pytest.raises(AssertionError):
        test_log.test_after_any_flipped_bit_all_other_records_are_found_and_a_copy_is_kept()
