"""The log on a disk that leaves partial writes, fills up and fails, and on a real disk."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oatmill.errors import UserError
from replay.log import disk as disk_module
from replay.log.disk import FolderDisk
from replay.log.records import OLD_MAGIC, prefix_of
from replay.log.segments import Damage, SegmentLog
from tests.replay.log.fake_disk import FakeDisk


def state() -> bytes:
    return b"state"


def log_on(disk: FakeDisk, segment_bytes: int = 2**20) -> tuple[SegmentLog, list[tuple[int, bytes]]]:
    """A log and what it held before."""
    log = SegmentLog(disk, segment_bytes=segment_bytes)
    return log, [(record.number, record.header) for record in log.recover()]


def test_committed_records_are_read_again_with_their_numbers_and_payloads() -> None:
    disk = FakeDisk()
    log, found = log_on(disk)
    assert found == []
    assert log.append(b"a", b"payload") == 0
    log.commit(state)
    assert log.append(b"b") == 2  # 1 is the state that follows what a new segment begins with
    log.append(b"c", bytes(1000))
    log.commit(state)
    assert log.committed == 4
    log.append(b"never committed")
    again, found = log_on(disk)
    assert found == [(0, b"a"), (1, b"state"), (2, b"b"), (3, b"c")]
    assert again.next == 4
    assert (again.read(0), again.read(3)) == (b"payload", bytes(1000))


def test_a_log_that_is_cut_or_damaged_at_any_byte_keeps_all_complete_records_before_it() -> None:
    disk = FakeDisk()
    log, _ = log_on(disk)
    ends = []
    for number in range(4):
        log.append(bytes([65 + number]) * (number + 1), b"x" * (10 * number))
        log.commit(state)
        ends.append(len(disk.files[disk.current]))
    whole = bytes(disk.files[disk.current])
    for end in range(len(whole)):
        for tail in (b"", b"\0" * 40, b"\xff" * 40):
            torn = FakeDisk({"0.log": bytearray(whole[:end] + tail)}, {"0.log": end})
            again, found = log_on(torn)
            kept = [header for _, header in found if header != b"state"]
            wanted = [b"A", b"BB", b"CCC", b"DDDD"][: sum(e <= end for e in ends)]
            assert kept == wanted or (kept == [b"A"] and end < ends[0]), f"cut at {end}"  # the first comes with a state
            assert again.next == len(found)
            _, once_more = log_on(torn)
            assert once_more == found, "what was torn is gone from the disk"


def damaged_log() -> tuple[FakeDisk, list[tuple[int, bytes]]]:
    """A segment of four records, in three groups."""
    disk = FakeDisk()
    log, _ = log_on(disk)
    for name in (b"a", b"b", b"c"):
        log.append(name, b"payload of " + name)
        log.commit(state)
    return disk, [(0, b"a"), (1, b"state"), (2, b"b"), (3, b"c")]


def test_after_any_flipped_bit_all_other_records_are_found_and_a_copy_is_kept() -> None:
    disk, whole = damaged_log()
    content = bytes(disk.files[disk.current])
    seen = set()
    for at in range(len(content) * 8):
        flipped = bytearray(content)
        flipped[at // 8] ^= 1 << at % 8
        again = FakeDisk({"0.log": flipped}, {"0.log": 0})
        log, found = log_on(again)
        gone = [record for record in whole if record not in found]
        assert len(gone) <= 1
        assert [record for record in whole if record not in gone] == found
        seen.add(tuple(gone))
        if gone == [(3, b"c")]:  # nothing whole follows: a crash may have left it
            assert (log.damage, again.names()) == ([], ["0.log"])
        else:
            assert log.damage == [Damage("0.log", "0.log.damaged", len(gone))]
            assert again.files["0.log.damaged"] == flipped, "as it was found"
        assert log.next == 4 - (gone == [(3, b"c")])
        assert log.read(3 if gone != [(3, b"c")] else 2).startswith(b"payload of ")
    assert len(seen) == 5, "each of the records, and the head"


def test_damage_is_reported_once_and_the_copy_outlives_the_segment() -> None:
    disk, _ = damaged_log()
    name = disk.current
    disk.files[name][-60] ^= 1
    first, _ = log_on(disk)
    assert len(first.damage) == 1
    again, found = log_on(disk)
    assert (again.damage, len(found)) == ([], 3)
    again.append(b"more")
    again.commit(state)
    again.remove_before(10**9)
    assert disk.names() == [f"{name}.damaged", disk.current] or disk.names() == [disk.current, f"{name}.damaged"]


def test_a_record_missing_at_the_end_of_an_earlier_segment_is_damage() -> None:
    disk, _ = damaged_log()
    name = disk.current
    log, _ = log_on(disk)  # a server that starts begins a new segment, and so says that the one before it was whole
    log.append(b"d")
    log.commit(state)
    del disk.files[name][-3:]
    again, found = log_on(disk)
    assert [header for _, header in found] == [b"a", b"state", b"b", b"d", b"state"]
    assert again.damage == [Damage(name, f"{name}.damaged", 1)]


def test_records_that_were_discarded_on_a_full_disk_are_not_damage() -> None:
    disk, _ = damaged_log()
    log, _ = log_on(disk)
    log.append(b"let go")
    log.discard()
    log.append(b"d")
    log.commit(state)
    again, found = log_on(disk)
    assert again.damage == []
    assert [header for _, header in found][-2:] == [b"d", b"state"]


def test_a_log_in_the_old_format_is_read() -> None:
    records = [(b"a", b"payload"), (b"state", b""), (b"b", b"")]
    content = OLD_MAGIC + b"".join(prefix_of(*record) + record[0] + record[1] for record in records)
    disk = FakeDisk({"0.log": bytearray(content + b"torn")}, {"0.log": 0})
    log, found = log_on(disk)
    assert found == [(0, b"a"), (1, b"state"), (2, b"b")]
    assert (log.read(0), log.damage) == (b"payload", [])
    log.append(b"c")
    log.commit(state)
    assert [header for _, header in log_on(disk)[1]] == [b"a", b"state", b"b", b"c", b"state"]


def test_a_full_disk_keeps_no_partial_write_and_everything_is_written_later() -> None:
    disk = FakeDisk()
    log, _ = log_on(disk)
    log.append(b"a")
    log.commit(state)
    disk.room = 20
    log.append(b"b", bytes(100))
    for _ in range(3):
        with pytest.raises(OSError, match="No space left"):
            log.commit(state)
        assert log.committed == 2
    assert [header for _, header in log_on(disk)[1]] == [b"a", b"state"], "nothing of it is left"
    disk.room = None
    log.append(b"c")
    log.commit(state)
    _, found = log_on(disk)
    assert found == [(0, b"a"), (1, b"state"), (2, b"b"), (3, b"c"), (4, b"state")]


def test_after_a_failed_sync_the_file_is_never_written_to_again() -> None:
    disk = FakeDisk()
    log, _ = log_on(disk)
    log.append(b"a")
    log.commit(state)
    before, disk.sync_fails = disk.current, True
    log.append(b"b")
    with pytest.raises(OSError, match="Input/output"):
        log.commit(state)
    disk.sync_fails = False
    log.commit(state)
    assert disk.current != before
    assert [header for _, header in log_on(disk)[1]] == [b"a", b"state", b"b", b"state"]


def test_segments_are_removed_once_their_records_are_not_needed() -> None:
    disk = FakeDisk()
    log, _ = log_on(disk, segment_bytes=200)
    for number in range(8):
        log.append(f"{number}".encode(), bytes(100))
        log.commit(state)
    names = disk.names()
    assert len(names) >= 3
    log.remove_before(int(names[1].removesuffix(".log")))
    assert disk.names() == names[1:]
    log.remove_before(10**9)
    assert disk.names() == names[-1:], "the newest one stays"
    _, found = log_on(disk)
    assert found[0][0] == int(names[-1].removesuffix(".log"))
    assert b"state" in dict(found).values()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["append", "commit", "crash", "full", "fail"]), st.integers(0, 300)), max_size=40))
def test_committed_records_and_no_others_survive_any_sequence_of_events(steps: list[tuple[str, int]]) -> None:
    disk = FakeDisk()
    log, _ = log_on(disk, segment_bytes=500)
    committed: list[bytes] = []
    waiting: list[bytes] = []
    count = 0
    for step, size in steps:
        disk.sync_fails = step == "fail"
        disk.room = size // 4 if step == "full" else None
        if step == "append":
            count += 1
            waiting.append(f"r{count}".encode())
            log.append(waiting[-1], bytes(size))
        elif step == "crash":
            disk.crash(random.Random(size))
            log, found = log_on(disk, segment_bytes=500)
            headers = [header for _, header in found if header != b"state"]
            assert headers == (committed + waiting)[: len(headers)]
            assert len(headers) >= len(committed)
            committed, waiting = headers, []
        else:
            try:
                log.commit(state)
            except OSError:
                continue
            committed, waiting = committed + waiting, []
    assert [header for _, header in log_on(disk)[1] if header != b"state"][: len(committed)] == committed


def test_the_real_disk_keeps_the_log_and_only_one_process_may_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FolderDisk(tmp_path / "log", durable=True)
    log = SegmentLog(disk, segment_bytes=2**20)
    assert list(log.recover()) == []
    for number in range(3000):  # more buffers than one system call takes
        log.append(f"{number}".encode(), memoryview(bytes(number % 7)))
    log.commit(state)
    monkeypatch.setattr(disk_module, "LOCKED_WITHIN_S", 0.1)
    with pytest.raises(UserError, match="another replay server writes its log to"):
        FolderDisk(tmp_path / "log", durable=True)
    disk.close()
    again = SegmentLog(FolderDisk(tmp_path / "log", durable=False), segment_bytes=2**20)
    found = list(again.recover())
    assert [record.header for record in found[:-1]] == [f"{number}".encode() for number in range(3000)]
    assert again.read(6) == bytes(6)


def test_a_log_in_a_deleted_run_folder_is_refused_and_a_folder_of_the_users_is_created(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written to: No such file or directory"):
        FolderDisk(tmp_path / "run" / "log", durable=False)
    assert not (tmp_path / "run").exists()
    FolderDisk(tmp_path / "disk" / "log", durable=False, parents=True).close()
    assert (tmp_path / "disk" / "log").is_dir()


LIMITED = """
import resource, sys
from pathlib import Path
from replay.log.disk import FolderDisk
from replay.log.segments import Damage, SegmentLog
from replay.log.records import OLD_MAGIC, prefix_of
log = SegmentLog(FolderDisk(Path(sys.argv[1]), durable=True), segment_bytes=2**30)
list(log.recover())
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
log.append(b"a", bytes(3000)); log.commit(lambda: b"state")
log.append(b"b", bytes(6000))
try:
    log.commit(lambda: b"state")
    sys.exit("it fitted")
except OSError as error:
    print(error.strerror)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.commit(lambda: b"state")
"""


def test_a_real_file_that_cannot_grow_is_shortened_and_written_later(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "File too large\n"), done.stderr
    log = SegmentLog(FolderDisk(tmp_path, durable=True), segment_bytes=2**20)
    assert [record.header for record in log.recover()] == [b"a", b"state", b"b", b"state"]
    assert log.read(2) == bytes(6000)
