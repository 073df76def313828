"""Writes and restores snapshots of the replay buffer, while the server continues to work.

The server's loop copies some rows at a time between two messages, so that no row changes while it
is copied and nobody waits for long. A thread computes checksums, writes and syncs; it does not hold
Python's lock while doing so.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections import Counter, deque
from pathlib import Path
from queue import Full, Queue
from threading import Thread

from protocol.data.run_schema import RunSchema
from replay.store.assembly import Assembler
from replay.store.buffer import ReplayBuffer
from replay.store.snapshot import BufferSnapshot, Chunk, DamagedError, SnapshotFile, SnapshotFolder, SnapshotInfo

_log = logging.getLogger("oatmill.replay.buffer")

OUTCOMES = ("written", "failed", "restored", "damaged", "ignored")
CHUNK_BYTES = 2**20
CHUNK_ROWS = 64
"""The loop copies at most this many rows and bytes before it reads its sockets again."""
CHUNKS_WAITING = 2
RESERVE_BYTES = 64 * 2**20
"""Disk space that a snapshot leaves free, because the log needs it more."""
CLOSE_WITHIN_S = 4.0
"""A server that is told to end is killed soon after this."""


class SnapshotWriter(Thread):
    """A thread that writes one file.

    Args:
        folder: the folder of the file.
        info: the snapshot's description.
        nbytes: its estimated size.

    Attributes:
        error: the reason why it failed; empty if it did not.
    """

    def __init__(self, folder: SnapshotFolder, info: SnapshotInfo, nbytes: int) -> None:
        super().__init__(name="buffer-snapshot", daemon=True)
        self._folder, self._info, self._nbytes = folder, info, nbytes
        self._chunks: Queue[Chunk | None] = Queue(CHUNKS_WAITING)
        self.error = ""

    def offer(self, chunk: Chunk | None, *, wait_s: float = 0.0) -> bool:
        """Hand over some rows, or None after the last ones; False if there is no room for them yet."""
        try:
            self._chunks.put(chunk, block=wait_s > 0, timeout=wait_s or None)
        except Full:
            return False
        return True

    @property
    def has_room(self) -> bool:
        """Whether rows would be accepted now."""
        return not self._chunks.full()

    def run(self) -> None:
        """Write until the last chunk.

        After an error, the rest is read and dropped, so that nobody waits for this thread.
        """
        file: SnapshotFile | None = None
        try:
            self._check_room()
            file = self._folder.begin()
            file.head(self._info)
            while (chunk := self._chunks.get()) is not None:
                file.add(chunk)
            file.finish()
        except OSError as error:
            self.error = error.strerror or str(error)
            if file is not None:
                file.give_up()
            while self._chunks.get() is not None:
                pass

    def _check_room(self) -> None:
        self._folder.path.mkdir(exist_ok=True)
        free, needed = shutil.disk_usage(self._folder.path).free, self._nbytes + RESERVE_BYTES
        if free < needed:
            raise OSError(
                f"{free / 2**20:.0f} MB are free, {needed / 2**20:.0f} MB are needed, with {RESERVE_BYTES >> 20} MB to spare"
            )


class BufferSaver:
    """Writes and restores the snapshots of one run.

    Args:
        path: the folder of the snapshots.

    Attributes:
        counts: the number of snapshots, by outcome.
        seconds: the duration of the last one.
    """

    def __init__(self, path: Path) -> None:
        self._folder = SnapshotFolder(path)
        self.counts: Counter[str] = Counter(dict.fromkeys(OUTCOMES, 0))
        self.seconds = 0.0
        self._asked: SnapshotInfo | None = None  # the newest request
        self._due: SnapshotInfo | None = None
        self._writer: SnapshotWriter | None = None
        self._standing: deque[tuple[int, int]] = deque()
        self._fed = self._failing = False
        self._began = 0.0
        self._assembler: Assembler | None = None
        self._chunk_rows = 1

    # ------------------------------------------------------------------------------------------------------ writing

    def ask(self, info: SnapshotInfo) -> None:
        """Write a snapshot of the buffer soon. A repeated request for the same snapshot is ignored."""
        if info != self._asked:
            self._asked = self._due = info

    @property
    def at_work(self) -> bool:
        """Whether `turn` has rows to copy that would be accepted."""
        if self._writer is None:
            return self._due is not None
        return not self._fed and self._writer.has_room

    def turn(self, buffer: ReplayBuffer, schema: RunSchema, steps: int, *, may_begin: bool = True) -> None:
        """Copy some rows, if they are needed."""
        if self._writer is None:
            if self._due is not None and may_begin:
                self._begin(buffer, schema, steps, self._due)
        elif not self._writer.is_alive():
            self._end(self._writer)
        elif not self._fed:
            self._feed(buffer, self._writer)

    def _begin(self, buffer: ReplayBuffer, schema: RunSchema, steps: int, info: SnapshotInfo) -> None:
        self._due, self._fed, self._began = None, False, time.monotonic()
        self._standing = deque(buffer.standing())
        self._assembler = Assembler(schema, steps)
        self._chunk_rows = max(1, min(CHUNK_ROWS, CHUNK_BYTES * buffer.rows // max(1, buffer.nbytes)))
        self._writer = SnapshotWriter(self._folder, info, buffer.nbytes)
        self._writer.start()

    def _feed(self, buffer: ReplayBuffer, writer: SnapshotWriter, *, wait_s: float = 0.0) -> None:
        """Hand over the next rows. Rows that are no longer in the buffer are left out."""
        if not wait_s and not writer.has_room:
            return
        if not self._standing:
            self._fed = writer.offer(None, wait_s=wait_s)
            return
        chosen = [self._standing.popleft() for _ in range(min(self._chunk_rows, len(self._standing)))]
        kept = buffer.kept(chosen)
        if kept:
            assert self._assembler is not None, "it was made at the beginning"
            part = self._assembler.assemble(0, [piece for piece, _ in kept])
            chunk = Chunk(part.size.finals, [past for _, past in kept], part.payload)
            if not writer.offer(chunk, wait_s=wait_s):
                self._standing.extendleft(reversed(chosen))

    def _end(self, writer: SnapshotWriter) -> None:
        self._writer, self.seconds = None, time.monotonic() - self._began
        why = writer.error or ("" if self._fed else "its thread has died")
        self.counts["failed" if why else "written"] += 1
        if why and not self._failing:
            _log.warning(
                "the replay buffer could not be saved: %s; the run continues, and the next checkpoint tries again", why
            )
        elif self._failing and not why:
            _log.warning("the replay buffer was saved again")
        self._failing = bool(why)

    def close(self, buffer: ReplayBuffer | None, schema: RunSchema | None, steps: int) -> None:
        """Finish the requested snapshot, within a time limit."""
        deadline = time.monotonic() + CLOSE_WITHIN_S
        while buffer is not None and schema is not None and (self._writer is not None or self._due is not None):
            if time.monotonic() > deadline:
                _log.warning("the replay buffer could not be saved within %.0f s; the previous snapshot stays", CLOSE_WITHIN_S)
                return
            if self._writer is None or not self._writer.is_alive():
                self.turn(buffer, schema, steps)
            elif self._fed:
                self._writer.join(0.05)
            else:
                self._feed(buffer, self._writer, wait_s=0.05)

    # ------------------------------------------------------------------------------------------------------- reading

    def restore(self, buffer: ReplayBuffer, schema: RunSchema, steps: int, *, most_sampled: int, now: float) -> None:
        """Fill an empty buffer from the newest complete snapshot.

        The current settings apply: the newest rows are kept.

        Args:
            buffer: the buffer to fill.
            schema: the run's schema.
            steps: T, the length of an unroll.
            most_sampled: rows that were sampled this often are not restored; 0 for no limit.
            now: the time of their arrival, in seconds of the monotonic clock.
        """
        self._folder.sweep()
        for path in self._folder.files():
            try:
                snapshot = BufferSnapshot(path)
                why = SnapshotInfo.of(schema, steps, 0, 0).difference(snapshot.info)
                if why:
                    self.counts["ignored"] += 1
                    _log.warning("the replay buffer is empty: its snapshot %s is ignored, because %s", path.name, why)
                    return
                fill(buffer, snapshot, schema, most_sampled=most_sampled, now=now)
            except (OSError, DamagedError, ValueError) as error:
                buffer.clear()
                self.counts["damaged"] += 1
                _log.warning("skipped the replay buffer's snapshot %s, which is damaged: %s", path.name, error)
                continue
            self.counts["restored"] += 1
            step = snapshot.info.learner_step
            _log.info(
                "restored %d of %d trajectories of the replay buffer from learner step %d", buffer.rows, snapshot.rows, step
            )
            return


def fill(buffer: ReplayBuffer, snapshot: BufferSnapshot, schema: RunSchema, *, most_sampled: int, now: float) -> None:
    """Put a snapshot's rows into an empty buffer: the newest ones that fit and may still be sampled.

    Raises:
        DamagedError: if a payload does not have the length that the schema requires.
        OSError: if the disk cannot be read.
    """
    if not snapshot.fits(schema):
        raise DamagedError("its rows have the wrong length")
    welcome = [past for place in snapshot.places for past in place.past if not most_sampled or past.sampled < most_sampled]
    left_out = max(0, len(welcome) - buffer.capacity)
    for chunk in snapshot.chunks():
        arrays = chunk.arrays(schema, snapshot.info.steps)
        for row, past in enumerate(chunk.past):
            if most_sampled and past.sampled >= most_sampled:
                continue
            if left_out:
                left_out -= 1
            else:
                buffer.put(arrays, row, past, now)
