"""The log as segments: files with numbered records to which records are only appended.

A record is first appended in memory. `commit` writes all waiting records at once and syncs; then
they are committed. A server that starts, or whose disk has failed, begins a new segment: no file is
appended to by two servers. A segment's name is the number of its first record. `replay.log.records`
defines the format.

Incomplete bytes at the end of a segment come from a crash and are cut off. Anything else that is
missing is damage: the file is kept under a second name, `damage` reports it, and the complete
records after it are read.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import NamedTuple

from protocol.wire.codec import Buffer
from replay.log.disk import Disk
from replay.log.records import HEAD_BYTES, RECORD_BYTES, FoundRecord, SegmentHead, head_of, read_head, record_of, scan

_log = logging.getLogger("oatmill.replay.log")

SUFFIX = ".log"
ASIDE = ".damaged"
"""The ending that is added to the name of a damaged segment for the copy that is never removed."""
MAX_RECORDS = 10**20


class LogRecord(NamedTuple):
    """A complete record that was found on disk."""

    number: int
    relied: int  # all records below this number were committed, as later records show
    header: bytes


class Damage(NamedTuple):
    """A damaged segment."""

    segment: str
    aside: str  # the name of its copy; empty if none could be made
    missing: int  # the number of missing records


class RecordPlace(NamedTuple):
    """The position of a record's payload."""

    segment: str
    offset: int
    length: int


class LogSegment(NamedTuple):
    """A file of the log."""

    name: str
    first: int  # the number of its first record
    nbytes: int


class SegmentLog:
    """Numbered records on a disk. Call `recover` once before anything else.

    Args:
        disk: the folder of the log.
        segment_bytes: the size after which a new segment is started.
        run: the run's id, which every segment contains.

    Attributes:
        next: the number of the next record.
        committed: all records below this number survive a crash.
        damage: the damage that `recover` has found and no earlier server has reported.
        places: the positions of payloads in existing segments, by record number.
    """

    def __init__(self, disk: Disk, *, segment_bytes: int, run: str = "") -> None:
        self._disk, self._segment_bytes, self._run = disk, segment_bytes, run
        self._written = 0  # records before this number are on the disk; missing later ones are not damage
        self.damage: list[Damage] = []
        self._closed: list[LogSegment] = []  # segments that are full or given up, the oldest first
        self._current: LogSegment | None = None
        self._pending: list[Buffer] = []
        self._pending_bytes = 0
        self._pending_payloads: list[tuple[int, int, int]] = []  # record number, offset in the pending bytes, length
        self.next = self.committed = 0
        self.places: dict[int, RecordPlace] = {}

    @property
    def pending_bytes(self) -> int:
        """The number of bytes that `commit` would write."""
        return self._pending_bytes

    @property
    def nbytes(self) -> int:
        """The size of the log on the disk."""
        return sum(segment.nbytes for segment in self._segments())

    def _segments(self) -> list[LogSegment]:
        return self._closed if self._current is None else [*self._closed, self._current]

    def names(self) -> list[str]:
        """Return the names of the segments, the oldest first."""
        return [name for name in self._disk.names() if name.endswith(SUFFIX) and name.removesuffix(SUFFIX).isdecimal()]

    def heads(self) -> list[SegmentHead | None]:
        """Return the head of each segment, the oldest first; None for a damaged one.

        Raises:
            OSError: if the disk cannot be read.
        """
        return [read_head(self._disk.read_part(name, 0, HEAD_BYTES)) for name in self.names()]

    def recover(self) -> Iterator[LogRecord]:
        """Yield all complete records, in order.

        Raises:
            OSError: if the disk cannot be read.
        """
        names, heads = self.names(), self.heads()
        firsts = [int(name.removesuffix(SUFFIX)) for name in names]
        following = [*firsts[1:], MAX_RECORDS]
        after = [None if head is None else head.after for head in [*heads[1:], None]]
        for name, first, end, written in zip(names, firsts, following, after, strict=False):
            yield from self._recover_segment(name, first, end, end if written is None else min(end, written))
        self._written = self.committed = self.next

    def _recover_segment(self, name: str, first: int, following: int, written: int) -> Iterator[LogRecord]:
        """Yield the complete records of one segment.

        Args:
            name: the file's name.
            first: the number of its first record.
            following: the first number of the next segment; records from there on could not be
                committed here and were written again.
            written: records below this number were committed; MAX_RECORDS if only the segment
                itself shows it.
        """
        data = self._disk.read(name)
        found = scan(data, first)
        kept = [record for record in found.records if first <= record.number < following]
        strange = bool(found.records) and (found.head is None or not kept)
        damaged = self._look_for_damage(name, first, kept, written, strange=strange)
        self.next = max(self.next, first)
        if not kept:  # no record: nothing here was ever committed, or a copy was kept
            self._disk.remove(name)
            return
        relied = following if following < MAX_RECORDS else max(record.group for record in kept)
        for record in kept:
            self.next = max(self.next, record.number + 1)
            start = record.offset + record.header
            if record.payload:
                self.places[record.number] = RecordPlace(name, start, record.payload)
            yield LogRecord(record.number, relied, data[record.offset : start])
        end = kept[-1].end
        if end < len(data) and not damaged:
            _log.info("cutting %d incomplete bytes off the end of the log's %s, which a crash has left", len(data) - end, name)
            self._disk.cut(name, end)
        self._closed.append(LogSegment(name, first, end))

    def _look_for_damage(self, name: str, first: int, kept: list[FoundRecord], written: int, *, strange: bool) -> bool:
        """Whether a record is missing that was committed, or that others follow.

        If so, a copy of the file is kept.
        """
        last = kept[-1].number + 1 if kept else first
        missing = (last if written == MAX_RECORDS else max(last, written)) - first - len(kept)
        if not missing and not strange:
            return False
        aside = f"{name}{ASIDE}"
        if aside not in self._disk.names():
            with contextlib.suppress(OSError):
                self._disk.keep(name, aside)
            self.damage.append(Damage(name, aside if aside in self._disk.names() else "", missing))
        return True

    def skip_to(self, number: int) -> None:
        """Use no record number below this one again."""
        self.next = self.committed = max(self.next, number)

    def read(self, number: int) -> bytes:
        """Return a record's payload. `places` must contain it.

        Raises:
            OSError: if the disk cannot be read.
        """
        return self._disk.read_part(*self.places[number])

    def append(self, header: bytes, payload: Buffer = b"") -> int:
        """Append a record, in memory; returns its number. A header is never empty."""
        view = memoryview(payload)
        self._pending.append(record_of(self.next, self.committed, header, payload))
        if view.nbytes:
            self._pending.append(view)
            self._pending_payloads.append((self.next, self._pending_bytes + RECORD_BYTES + len(header), view.nbytes))
        self._pending_bytes += RECORD_BYTES + len(header) + view.nbytes
        self.next += 1
        return self.next - 1

    def commit(self, state: Callable[[], bytes]) -> None:
        """Write and sync all waiting records.

        After an OSError nothing is lost: the next call writes all of them again.

        Args:
            state: returns a record of the state that follows from all records so far. It is written
                whenever a new segment begins, so that older segments can be removed once their
                payloads are not needed.

        Raises:
            OSError: if the disk fails. Bytes that were written are removed as far as possible.
        """
        if self._current is None or self._current.nbytes >= self._segment_bytes:
            self._begin(state)
        elif self._pending:
            self._write(self._current)

    def _begin(self, state: Callable[[], bytes]) -> None:
        """Begin a new segment with the waiting records, followed by the state."""
        self._give_up()
        segment = LogSegment(f"{self.committed:020d}{SUFFIX}", self.committed, 0)
        waiting, nbytes = len(self._pending), self._pending_bytes
        self.append(state())
        try:
            self._disk.create(segment.name)
            self._write(segment, head_of(self._run, self._written))
        except OSError:
            with contextlib.suppress(OSError):
                self._disk.remove(segment.name)
            del self._pending[waiting:]
            self._pending_bytes, self.next = nbytes, self.next - 1
            raise

    def _write(self, segment: LogSegment, *before: Buffer) -> None:
        try:
            self._disk.append([*before, *self._pending])
            self._disk.sync()
        except OSError:
            # After a failed sync, it is unknown which bytes are on the disk, so the file is never written to again.
            with contextlib.suppress(OSError):
                self._disk.cut(segment.name, segment.nbytes)
            self._give_up()
            raise
        base = segment.nbytes + sum(map(len, before))
        for number, offset, length in self._pending_payloads:
            self.places[number] = RecordPlace(segment.name, base + offset, length)
        self._current = segment._replace(nbytes=base + self._pending_bytes)
        self._written = self.next
        self._clear()

    def _clear(self) -> None:
        self._pending, self._pending_bytes, self._pending_payloads = [], 0, []
        self.committed = self.next

    def discard(self) -> None:
        """Drop the waiting records.

        The next commit begins a new segment, whose state contains what they led to.
        """
        self._give_up()
        self._clear()

    def _give_up(self) -> None:
        """Append nothing more to the current segment."""
        if self._current is not None:
            self._closed.append(self._current)
            self._current = None

    def remove_before(self, number: int) -> None:
        """Remove closed segments, the oldest first, whose records all have lower numbers.

        A segment is removed only after a newer one, which contains the state, has begun. If
        removing fails, it is tried again.
        """
        while self._current is not None and self._closed:
            following = (*self._closed[1:], self._current)[0]
            if following.first > number:
                return
            try:
                self._disk.remove(self._closed[0].name)
            except OSError:
                return
            gone = self._closed.pop(0)
            self.places = {at: place for at, place in self.places.items() if place.segment != gone.name}
