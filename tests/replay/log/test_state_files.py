"""Damaged small files of a run folder are replaced and reported; the log of another run is not changed."""

from __future__ import annotations

import json
import random
import shutil
import time
from copy import deepcopy
from pathlib import Path

import pytest

from oatmill.errors import UserError
from oatmill.files.atomic import append_line, write_file
from oatmill.files.full_disk import NeededWrites
from oatmill.files.state_file import DamagedStateError, decode_state, encode_state
from replay.claim_limits import MAX_VERSION
from replay.hub.process import VERSIONS, read_version
from replay.ingest.core import IngestCore
from replay.log import tally
from replay.log.disk import FolderDisk
from replay.log.identity import check_owner, run_id
from replay.log.journal import Journal
from replay.log.records import scan
from tests.replay.conversation import Conversation
from tests.replay.log import flips
from tests.replay.serving import total

TRIED = 300


def damages(content: bytes) -> list[bytes]:
    """Return a seeded sample of possible damage to a file."""
    draw, found = random.Random(0), [b"", b"null", b"[]", b'{"version": 1}', b"\xff" * 40, str(2**53 - 1).encode()]
    for _ in range(TRIED):
        flipped = bytearray(content)
        flipped[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        found += [bytes(flipped), content[: draw.randrange(len(content))], draw.randbytes(draw.randrange(1, 100))]
    return found


def checkpoint(run_dir: Path, version: int, run: str = "0123456789abcdef") -> None:
    folder = run_dir / "checkpoints" / "step-5"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"policy_version": version, "replay": {"id": run, "cursor": 3}}))


def test_any_damage_to_a_state_file_is_detected() -> None:
    content = {"a": [1, 2, {"b": None}], "text": "x"}
    whole = encode_state("kind", content)
    assert decode_state("kind", whole) == content
    noticed = 0
    for damaged in damages(whole):
        try:
            assert decode_state("kind", damaged) == content, "only a change of blanks or of how a letter is written is none"
        except DamagedStateError:
            noticed += 1
    assert noticed > 0.95 * 3 * TRIED
    with pytest.raises(DamagedStateError, match="expected other of version 1, got kind of 1"):
        decode_state("other", whole)


def test_a_damaged_policy_version_is_replaced_by_the_checkpoints_and_reported(tmp_path: Path) -> None:
    checkpoint(tmp_path, 41)
    assert read_version(tmp_path) == (-1, "")
    for old in ("7", "0"):
        (tmp_path / VERSIONS).write_text(old)  # as it was before it was a state file
        assert read_version(tmp_path) == (int(old), "")
    whole = encode_state(VERSIONS, 44)
    for damaged in (
        *damages(whole),
        encode_state(VERSIONS, MAX_VERSION + 1),
        encode_state(VERSIONS, "x"),
        encode_state(VERSIONS, [1]),
    ):
        (tmp_path / VERSIONS).write_bytes(damaged)
        version, said = read_version(tmp_path)
        assert (version, bool(said)) in {(41, True), (44, False)}, damaged


def test_a_damaged_run_id_is_taken_from_the_checkpoints_or_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    made, said = run_id(tmp_path, log)
    assert (run_id(tmp_path, log), said) == ((made, ""), "")
    disk = FolderDisk(log, durable=False)
    journal = Journal.open(disk, durable=True, keep_trained=False, steps=2, kept_bytes=2**30, run=made)
    journal.commit(0.0)
    disk.close()
    whole = (tmp_path / "run_id").read_bytes()
    for damaged in damages(whole):
        (tmp_path / "run_id").write_bytes(damaged)
        assert run_id(tmp_path, log)[0] == made
    checkpoint(tmp_path, 1, run="f" * 16)
    (tmp_path / "run_id").write_bytes(b"garbage")
    found, said = run_id(tmp_path, log)
    assert found == "f" * 16
    assert "run_id is damaged" in said


def test_another_runs_log_is_rejected_with_one_line_and_not_changed(tmp_path: Path) -> None:
    log = tmp_path / "shared"
    disk = FolderDisk(log, durable=False)
    Journal.open(disk, durable=True, keep_trained=False, steps=2, kept_bytes=2**30, run="a" * 16).commit(0.0)
    disk.close()
    before = {path.name: path.read_bytes() for path in log.iterdir()}
    check_owner("a" * 16, tmp_path / "mine", log)
    with pytest.raises(UserError, match=r"contains the log of run aaaa.*, and this is run bbbb.*another replay\.log_dir"):
        check_owner("b" * 16, tmp_path / "other", log)
    assert {path.name: path.read_bytes() for path in log.iterdir()} == before


def test_a_damaged_tally_loses_nothing_and_is_reported() -> None:
    disk, truth = flips.written_log(2**20)
    for damaged in (b"", b"{}", b"\0" * 50, encode_state(tally.KIND, {"accounts": 5}), encode_state(tally.KIND, [])):
        disk.files[tally.NAME] = bytearray(damaged)
        journal = flips.open_journal(disk, 2**20)
        assert len(journal.damage) == 1
        assert flips.outcome_of(disk, 2**20, truth) == "nothing lost"


def test_an_unreadable_tally_loses_nothing_and_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    disk, truth = flips.written_log(2**20)
    read = disk.read

    def unreadable(name: str) -> bytes:
        if name == tally.NAME:
            raise OSError(5, "Input/output error")
        return read(name)

    monkeypatch.setattr(disk, "read", unreadable)
    (text,) = flips.open_journal(disk, 2**20).damage
    assert "tally.json is damaged ([Errno 5] Input/output error)" in text
    assert flips.outcome_of(disk, 2**20, truth) == "nothing lost"


@pytest.mark.parametrize("segment_bytes", [2**20, 3000])
def test_any_flipped_bit_in_a_log_is_reported_and_produced_does_not_fall(segment_bytes: int) -> None:
    outcomes = flips.count(150, 1, segment_bytes)
    assert set(outcomes) <= {"nothing lost", "said: counted as lost"}, outcomes
    assert outcomes["said: counted as lost"] > 50


def test_the_tally_replaces_a_missing_log_as_far_as_possible() -> None:
    disk, truth = flips.written_log(2**20)
    for name in [name for name in disk.names() if name.endswith(".log")]:
        disk.remove(name)
    assert flips.outcome_of(disk, 2**20, truth) == "said: counted as lost"
    journal = flips.open_journal(disk, 2**20)
    accounts, past = journal.state.accounts.values(), journal.state.ledger.past_produced
    assert sum(account.produced for account in accounts) + past == truth["produced"]


def test_on_a_full_disk_events_use_the_reserve_and_the_rest_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes = NeededWrites(tmp_path, owner=True)
    assert (tmp_path / ".reserve").stat().st_size == 2**20
    room = 3

    def full(path: Path, content: object) -> None:
        nonlocal room
        lent = 2**20 - (tmp_path / ".reserve").stat().st_size if (tmp_path / ".reserve").exists() else 2**20
        if room <= 0 and lent < 2**16 * (1 - room):
            raise OSError(28, "No space left on device")
        room -= 1
        append_line(path, content)  # type: ignore[arg-type]

    monkeypatch.setattr("oatmill.files.full_disk.append_line", full)
    for number in range(40):
        writes.line(tmp_path / "events.jsonl", {"number": number})
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["number"] for line in lines] == list(range(len(lines))), "in order"
    assert (len(lines), writes.waiting) == (3 + 16, 40 - 19), "the reserve has room for sixteen"
    monkeypatch.setattr("oatmill.files.full_disk.append_line", append_line)
    assert writes.flush()
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) == 40
    writes.close()
    assert not (tmp_path / ".reserve").exists()


@pytest.mark.parametrize("owner", [True, False])
def test_waiting_writes_do_not_wait_for_a_deleted_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *, owner: bool
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    writes = NeededWrites(folder, owner=owner)
    shutil.rmtree(folder)
    writes.line(folder / "events.jsonl", {"number": 1})
    began = time.monotonic()
    writes.close(30.0)
    assert time.monotonic() - began < 5
    assert not folder.exists(), "nothing is made anew"
    said = [] if owner else [f"{folder} is gone: events.jsonl could not be written completely"]
    assert caplog.messages == said, "the run's own error says it for the owner, and no line promises that there will be room"


def test_a_failed_write_leaves_the_old_file_and_no_partial_one(tmp_path: Path) -> None:
    write_file(tmp_path / "state", "before")
    with pytest.raises(OSError, match="Not a directory"):
        write_file(tmp_path / "state" / "below", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    assert (tmp_path / "state").read_text() == "before"
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o600


def test_the_totals_survive_the_loss_of_the_logs_first_state() -> None:
    # Segments before it were removed, so that this record alone says what was produced and trained on before them.
    disk, truth = flips.written_log(3000)
    (name,) = (name for name in disk.names() if name.endswith(".log"))
    number, whole = int(name.partition(".")[0]), bytes(disk.files[name])
    assert number > 0, "earlier segments were removed"
    (state,) = (found for found in scan(whole, number).records if b"state" in whole[found.offset : found.offset + 8])
    for at in range(state.offset, state.end, 10):
        damaged = deepcopy(disk)
        damaged.files[name][at] ^= 1
        journal = flips.open_journal(damaged, 3000)
        ledger = IngestCore(Conversation().core._settings, journal=journal, server=2).ledger()
        assert len(journal.damage) == 1
        assert ledger["produced"] == total(ledger) == truth["produced"]
        assert ledger["trained"] == truth["trained"]
        assert ledger["lost"] + ledger["queued"] + ledger["in_flight"] == truth["queued"] + truth["in_flight"]
