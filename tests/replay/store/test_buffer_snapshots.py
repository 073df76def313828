"""Snapshots of the replay buffer: the rows are restored, current settings apply, and damaged files are skipped."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oatmill.process.failpoints import VARIABLE
from protocol.data.run_schema import RunSchema
from protocol.wire import messages
from protocol.wire.codec import encode
from replay.ingest.core import IngestCore
from replay.store.buffer import BufferSettings, ReplayBuffer, RowHistory
from replay.store.snapshot import BufferSnapshot, Chunk, DamagedError, SnapshotFile, SnapshotInfo
from replay.store.snapshot_saver import RESERVE_BYTES, BufferSaver
from tests.replay.blocks import SCHEMA
from tests.replay.conversation import Conversation
from tests.replay.store.test_buffer import STEPS, fresh_part, make_buffer, numbers, part_of, told

ROOT = Path(__file__).parents[3]


def save(folder: Path, buffer: ReplayBuffer, step: int = 1) -> BufferSaver:
    """Write a snapshot to its end."""
    saver = BufferSaver(folder)
    saver.ask(SnapshotInfo.of(SCHEMA, STEPS, step, step))
    saver.close(buffer, SCHEMA, STEPS)
    return saver


def restore(
    folder: Path, buffer: ReplayBuffer, *, schema: RunSchema = SCHEMA, steps: int = STEPS, most: int = 0
) -> dict[str, int]:
    """Read the newest snapshot; returns the outcome."""
    saver = BufferSaver(folder)
    saver.restore(buffer, schema, steps, most_sampled=most, now=7.0)
    return {name: count for name, count in saver.counts.items() if count}


def content(buffer: ReplayBuffer) -> list[tuple[dict[str, Any], RowHistory]]:
    """Every row with all that is known of it, the oldest first; slots and tickets are the process's own."""
    found = []
    for piece, past in buffer.kept(buffer.standing()):
        arrays = part_of(piece).arrays
        found.append(({name: array.tolist() for name, array in arrays.items()}, past._replace(priority=str(past.priority))))  # type: ignore[arg-type]
    return found


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


operations = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), st.integers(1, 4), st.sets(st.tuples(st.integers(0, 3), st.integers(0, 1)), max_size=3)),
        st.tuples(st.just("sample"), st.integers(1, 4), st.just(set[tuple[int, int]]())),
    ),
    min_size=1,
    max_size=12,
)


def filled(buffer: ReplayBuffer, steps: list[Any]) -> ReplayBuffer:
    """A buffer with a history: rows with final observations, priorities, some sampled."""
    first = 0
    for version, (what, count, ends) in enumerate(steps):
        if what == "insert":
            truncate = tuple(sorted((row, step) for row, step in ends if row < count))
            part = fresh_part(first, count, truncate=truncate, version=version)
            buffer.insert(told(part, *(0.25 * (first + row) for row in range(count))) if version % 3 else part, version)
            first += count
        else:
            buffer.sample(min(count, buffer.rows))
    return buffer


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.integers(1, 9), steps=operations, eviction=st.sampled_from(("fifo", "random")))
def test_a_restored_buffer_is_equal_bit_for_bit(tmp_path: Path, size: int, steps: list[Any], eviction: str) -> None:
    shutil.rmtree(tmp_path / "b", ignore_errors=True)
    before = filled(make_buffer(size, eviction=eviction, sampling="prioritised"), steps)
    assert save(tmp_path / "b", before).counts["written"] == 1
    after = make_buffer(size, eviction=eviction, sampling="prioritised")
    assert restore(tmp_path / "b", after) == {"restored": 1}
    assert content(after) == content(before)
    assert (after.rows, after.nbytes) == (before.rows, before.nbytes)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=operations,
    size=st.integers(1, 12),
    most=st.integers(0, 3),
    eviction=st.sampled_from(("fifo", "random")),
    sampling=st.sampled_from(("uniform", "prioritised")),
)
def test_current_settings_apply_and_the_newest_rows_are_kept(
    tmp_path: Path, *, steps: list[Any], size: int, most: int, eviction: str, sampling: str
) -> None:
    shutil.rmtree(tmp_path / "b", ignore_errors=True)
    before = filled(make_buffer(8, sampling="prioritised"), steps)
    save(tmp_path / "b", before)
    after = make_buffer(size, eviction=eviction, sampling=sampling, max_times_sampled=most)
    restore(tmp_path / "b", after, most=most)
    allowed = [entry for entry in content(before) if not most or entry[1].sampled < most]
    assert content(after) == allowed[-size:]
    count = min(after.rows, 3)
    assert len(set(numbers(after.sample(count)))) == count, "and it continues"


def test_memory_that_holds_fewer_rows_keeps_the_newest(tmp_path: Path) -> None:
    before = make_buffer(8)
    before.insert(fresh_part(0, 8))
    save(tmp_path, before)
    after = make_buffer(8, max_bytes=3 * SCHEMA.row_bytes(STEPS))
    restore(tmp_path, after)
    assert [row["observations"][0][0][1] for row, _ in content(after)] == [5, 6, 7]


@pytest.mark.parametrize(
    ("schema", "steps", "why"),
    [
        (SCHEMA, 3, "actors.unroll_length=2, this run has 3"),
        (replace(SCHEMA, core_state_size=4), STEPS, "another environment or network"),
    ],
)
def test_rows_of_another_kind_are_ignored_with_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, schema: RunSchema, steps: int, why: str
) -> None:
    before = make_buffer(8)
    before.insert(fresh_part(0, 8))
    for step in (1, 2):
        save(tmp_path, before, step)
    after = ReplayBuffer(schema, steps, BufferSettings(fraction=0.5, size=8, max_bytes=2**20))
    with caplog.at_level(logging.INFO):
        assert restore(tmp_path, after, schema=schema, steps=steps) == {"ignored": 1}
    assert after.rows == 0
    assert len(caplog.messages) == 1
    assert why in caplog.messages[0]


def two_snapshots(folder: Path) -> tuple[Path, Path]:
    """Of rows 0 to 3, then of 0 to 7; the older one first."""
    buffer = make_buffer(8)
    for step in (1, 2):
        buffer.insert(fresh_part(4 * step - 4, 4, truncate=((0, 1),)))
        save(folder, buffer, step)
    older, newer = sorted(folder.iterdir())
    return older, newer


def test_if_any_byte_of_the_newest_snapshot_is_damaged_the_previous_one_is_used(tmp_path: Path) -> None:
    older, newer = two_snapshots(tmp_path)
    whole = newer.read_bytes()
    random = np.random.default_rng(0)
    places = {0, len(whole) - 1, *random.integers(0, len(whole), 150).tolist()}
    cuts = {0, 1, len(whole) - 1, *random.integers(0, len(whole), 60).tolist()}
    damaged = [whole[:place] + bytes([whole[place] ^ 0x40]) + whole[place + 1 :] for place in places]
    for data in (*damaged, *(whole[:cut] for cut in cuts), whole + b"\0", b""):
        newer.write_bytes(data)
        with pytest.raises(DamagedError):
            BufferSnapshot(newer)
        after = make_buffer(8)
        assert restore(tmp_path, after) == {"damaged": 1, "restored": 1}
        assert set(numbers(after.sample(4))) == {0, 1, 2, 3}
    older.write_bytes(b"x")
    after = make_buffer(8)
    assert restore(tmp_path, after) == {"damaged": 2}
    assert after.rows == 0


def test_a_disk_that_fails_while_writing_leaves_no_partial_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, newer = two_snapshots(tmp_path)
    chunks = BufferSnapshot.chunks

    def failing(snapshot: BufferSnapshot) -> Iterator[Chunk]:
        yield from chunks(snapshot)
        if snapshot._path == newer:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(BufferSnapshot, "chunks", failing)
    after = make_buffer(8)
    assert restore(tmp_path, after) == {"damaged": 1, "restored": 1}
    assert [row["observations"][0][0][1] for row, _ in content(after)] == [0, 1, 2, 3]


def test_a_deleted_run_folder_is_not_created_again(tmp_path: Path) -> None:
    buffer = make_buffer(8)
    buffer.insert(fresh_part(0, 4))
    assert save(tmp_path / "deleted" / "log" / "buffer", buffer).counts["failed"] == 1
    assert list(tmp_path.iterdir()) == []


def test_a_snapshot_with_a_missing_part_is_rejected(tmp_path: Path) -> None:
    buffer = make_buffer(400)
    buffer.insert(fresh_part(0, 200))
    save(tmp_path, buffer)
    (path,) = tmp_path.iterdir()
    snapshot = BufferSnapshot(path)
    assert (snapshot.rows, snapshot.info.learner_step) == (200, 1)
    first, second, *_ = snapshot.places
    data = path.read_bytes()
    # Every record that is left is whole.
    path.write_bytes(data[: first.offset + first.length] + data[second.offset + second.length :])
    with pytest.raises(DamagedError, match="its records are damaged"):
        BufferSnapshot(path)


def test_the_newest_two_are_kept_and_remains_of_a_crash_are_removed(tmp_path: Path) -> None:
    buffer = make_buffer(4)
    buffer.insert(fresh_part(0, 4))
    (tmp_path / "0000000000.tmp").write_bytes(b"half")
    for step in range(5):
        save(tmp_path, buffer, step)
    assert files(tmp_path) == ["0000000003.buffer", "0000000004.buffer"]
    (tmp_path / "0000000005.tmp").write_bytes(b"half")
    restore(tmp_path, make_buffer(4))
    assert files(tmp_path) == ["0000000003.buffer", "0000000004.buffer"]


def test_rows_that_are_removed_while_a_snapshot_is_written_are_left_out(tmp_path: Path) -> None:
    buffer = make_buffer(300)
    buffer.insert(fresh_part(0, 300))
    saver = BufferSaver(tmp_path)
    saver.ask(SnapshotInfo.of(SCHEMA, STEPS, 1, 1))
    saver.turn(buffer, SCHEMA, STEPS)  # begins
    saver.turn(buffer, SCHEMA, STEPS)  # 64 rows are copied
    buffer.insert(fresh_part(1000, 100))  # takes the slots of rows 0 to 99
    saver.close(buffer, SCHEMA, STEPS)
    after = make_buffer(300)
    restore(tmp_path, after)
    found = [row["observations"][0][0][1] for row, _ in content(after)]
    assert found == [*range(64), *range(100, 300)]


def test_the_loop_is_kept_awake_only_while_it_can_copy_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add, finish, go_on = SnapshotFile.add, SnapshotFile.finish, Event()
    adding = Event()

    def held_up(file: SnapshotFile, chunk: Chunk) -> None:
        adding.set()
        go_on.wait(60)
        add(file, chunk)

    monkeypatch.setattr(SnapshotFile, "add", held_up)
    buffer, saver = make_buffer(400), BufferSaver(tmp_path)
    buffer.insert(fresh_part(0, 4 * 64))
    assert not saver.at_work
    saver.ask(SnapshotInfo.of(SCHEMA, STEPS, 1, 1))
    assert saver.at_work
    saver.turn(buffer, SCHEMA, STEPS)  # begins
    saver.turn(buffer, SCHEMA, STEPS)
    assert adding.wait(60)  # the thread has the first rows, and two lots may wait for it
    for _ in range(2):
        assert saver.at_work
        saver.turn(buffer, SCHEMA, STEPS)
    assert not saver.at_work, "the disk is behind"
    saver.ask(SnapshotInfo.of(SCHEMA, STEPS, 2, 2))
    assert not saver.at_work, "one at a time"
    monkeypatch.setattr(SnapshotFile, "finish", lambda file: (time.sleep(0.3), finish(file)))
    go_on.set()
    while not saver._fed:
        saver.turn(buffer, SCHEMA, STEPS)
    assert not saver.at_work, "it syncs"
    saver.close(buffer, SCHEMA, STEPS)
    assert saver.counts["written"] == 2


def test_at_the_end_all_rows_are_written_to_a_slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add = SnapshotFile.add

    def slow(file: SnapshotFile, chunk: Chunk) -> None:
        time.sleep(0.12)  # twice as long as an offer waits
        add(file, chunk)

    monkeypatch.setattr(SnapshotFile, "add", slow)
    buffer = make_buffer(400)
    buffer.insert(fresh_part(0, 400))
    save(tmp_path, buffer)
    after = make_buffer(400)
    assert restore(tmp_path, after) == {"restored": 1}
    assert [row["observations"][0][0][1] for row, _ in content(after)] == list(range(400))


def test_a_disk_that_is_too_slow_at_the_end_loses_only_the_newest_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _, newer = two_snapshots(tmp_path)
    go_on = Event()
    monkeypatch.setattr("replay.store.snapshot_saver.CLOSE_WITHIN_S", 0.2)
    monkeypatch.setattr(SnapshotFile, "finish", lambda _: go_on.wait(60))
    saver = save(tmp_path, make_buffer(4), 3)
    assert saver.counts["written"] == 0
    assert "could not be saved within" in caplog.messages[-1]
    go_on.set()
    assert restore(tmp_path, make_buffer(8)) == {"restored": 1}
    assert newer.exists()


def test_a_repeated_request_is_written_once_and_only_the_newest_request_waits(
    tmp_path: Path,
) -> None:
    buffer = make_buffer(4)
    buffer.insert(fresh_part(0, 4))
    saver = BufferSaver(tmp_path)
    for step in (1, 1, 2, 3):
        saver.ask(SnapshotInfo.of(SCHEMA, STEPS, step, step))
        saver.turn(buffer, SCHEMA, STEPS)
    saver.ask(SnapshotInfo.of(SCHEMA, STEPS, 3, 3))
    saver.close(buffer, SCHEMA, STEPS)
    assert [BufferSnapshot(tmp_path / name).info.learner_step for name in files(tmp_path)] == [1, 3]
    saver.ask(SnapshotInfo.of(SCHEMA, STEPS, 3, 3))  # the answer was lost, and the question comes again
    saver.close(buffer, SCHEMA, STEPS)
    assert saver.counts["written"] == 2


def test_a_full_disk_loses_only_the_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    older, newer = two_snapshots(tmp_path)
    buffer = make_buffer(400)
    buffer.insert(fresh_part(0, 400))
    written = os.write
    monkeypatch.setattr(os, "write", fails_after(written, 3))
    saver = save(tmp_path, buffer, 3)
    saver.ask(SnapshotInfo.of(SCHEMA, STEPS, 4, 4))
    saver.close(buffer, SCHEMA, STEPS)
    assert (saver.counts["failed"], saver.counts["written"]) == (2, 0)
    assert files(tmp_path) == [newer.name], "the newest stays, the one before it has made room"
    assert not older.exists()
    monkeypatch.setattr(os, "write", written)
    saver.ask(SnapshotInfo.of(SCHEMA, STEPS, 5, 5))
    saver.close(buffer, SCHEMA, STEPS)
    assert [message.partition(":")[0] for message in caplog.messages] == [
        "the replay buffer could not be saved",
        "the replay buffer was saved again",
    ]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=RESERVE_BYTES))
    assert save(tmp_path, buffer, 6).counts["failed"] == 1
    assert "MB are free" in caplog.messages[-1]


def fails_after(write: Any, calls: int) -> Any:
    """A disk that is full after some writes, also when it is tried again."""
    left = Counter(left=calls)

    def mutant(file: int, data: Any) -> int:
        left["left"] -= 1
        if left["left"] < 0:
            raise OSError(28, "No space left on device")
        return int(write(file, data))

    return mutant


# ------------------------------------------------------------------------------------------------------ with a server

HALF = BufferSettings(fraction=0.5, size=100, max_bytes=2**20)


def talk_with(folder: Path, **buffer: Any) -> Conversation:
    """A conversation with a server that has found this folder."""
    talk = Conversation(buffer=replace(HALF, **buffer), queue_batches=8.0)
    talk.core = IngestCore(talk.core._settings, saver=BufferSaver(folder))
    talk.hub(0)
    return talk


def test_the_next_server_restores_the_buffer_of_a_checkpoint_once_it_knows_the_schema(tmp_path: Path) -> None:
    talk = talk_with(tmp_path)
    talk.hello()
    talk.learn()
    for first in (0, 2):
        talk.send(first)
    ((batch, _),) = [answer for answer in talk.get() if isinstance(answer, tuple)]
    talk.core.receive_batches(b"rank 0", encode(messages.LogMark(0, "t", 1, batch.batch_id, 1))[0])
    for _ in range(1000):
        talk.core.turn(0.0)
        if talk.core.report()["buffer_snapshots"]["outcomes"]["written"]:
            break
        time.sleep(0.002)
    assert talk.core.report()["buffer_snapshots"]["seconds"] > 0
    second = talk_with(tmp_path)
    assert second.core.fleet_summary()["buffer"]["capacity"] == 0
    second.hello()
    second.send(0)
    assert second.core.fleet_summary()["buffer"]["trajectories"] == 4
    assert second.core.report()["buffer_snapshots"]["outcomes"]["restored"] == 1
    third = talk_with(tmp_path, fraction=0.0)
    third.hello()
    third.send(0)
    assert third.core.fleet_summary()["buffer"]["trajectories"] == 0, "a run that samples nothing reads nothing"


KILLED = """
import sys
from pathlib import Path
from types import SimpleNamespace
from tests.replay.store.test_buffer import fresh_part, make_buffer
from tests.replay.store.test_buffer_snapshots import save
buffer = make_buffer(200)
for step in (1, 2, 3):
    buffer.insert(fresh_part(50 * step, 50))
    save(Path(sys.argv[1]), buffer, step)
"""


@pytest.mark.parametrize(
    ("point", "newest", "rows"),
    [("buffer.write.half:5", 2, 100), ("buffer.rename.before:3", 2, 100), ("buffer.rename.after:3", 3, 150)],
)
def test_a_snapshot_is_complete_or_absent_after_a_kill_at_any_point(tmp_path: Path, point: str, newest: int, rows: int) -> None:
    # Rows go 64 at a time: the first write is step 1's, the next two step 2's, so the fifth is within step 3's.
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, env=os.environ | {VARIABLE: point}, timeout=60, check=False
    )
    assert ended.returncode == -signal.SIGKILL
    after = make_buffer(200)
    assert restore(tmp_path, after) == {"restored": 1}
    assert after.rows == rows
    assert max(BufferSnapshot(path).info.learner_step for path in tmp_path.glob("*.buffer")) == newest
    assert not list(tmp_path.glob("*.tmp"))


def test_an_impossible_learner_step_does_not_make_a_snapshot_the_newest_for_ever(tmp_path: Path) -> None:
    buffer = make_buffer(200)
    buffer.insert(fresh_part(0, 2))
    save(tmp_path, buffer, 2**53 - 1)
    buffer.insert(fresh_part(50, 3))
    save(tmp_path, buffer, 2)
    restored = make_buffer(200)
    restore(tmp_path, restored)
    assert restored.rows == buffer.rows == 5
