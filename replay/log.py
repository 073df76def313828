"""The log in segments: numbered records in files that are only ever appended to, each with its length and checksum.

A record is appended to memory first; `commit` writes all that wait in one go and syncs once, and only then are they committed.
What a crash leaves behind is cut off after its last whole record, at whatever byte it ends. A server that starts, or whose disk
has failed, begins a new segment: no file is appended to twice.

A record on disk: three little-endian numbers of 4 bytes (the header's length, the payload's, and the CRC-32 of both lengths and
all that follows), the header, the payload. A segment is named after its first record's number and begins with MAGIC.
"""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

from protocol.codec import Buffer
from replay.disk import Disk

MAGIC = b"oatmill log 1\n\0\0"
SUFFIX = ".log"
_LENGTHS = struct.Struct("<II")
PREFIX_BYTES = 12
_PREFIX = struct.Struct("<III")
MAX_RECORD_BYTES = 2**31
"""A longer record is none: its length is garbage."""
MAX_RECORDS = 10**20


class Record(NamedTuple):
    """A whole record that was found on disk."""

    number: int
    header: bytes


class Place(NamedTuple):
    """Where a record's payload lies."""

    segment: str
    offset: int
    length: int


class Segment(NamedTuple):
    """A file of the log."""

    name: str
    first: int  # its first record's number
    nbytes: int


class SegmentLog:
    """Numbered records on a disk. Call `recover` once before anything else.

    Args:
        disk: where.
        segment_bytes: a segment that has grown beyond this is followed by another one.

    Attributes:
        next: the number that the next record gets.
        committed: the number below which all records survive a crash.
        places: where payloads lie, by record number, of segments that are still there.
    """

    def __init__(self, disk: Disk, *, segment_bytes: int) -> None:
        self._disk, self._segment_bytes = disk, segment_bytes
        self._closed: list[Segment] = []  # full, or given up; the oldest first
        self._current: Segment | None = None
        self._pending: list[Buffer] = []
        self._pending_bytes = 0
        self._pending_payloads: list[tuple[int, int, int]] = []  # record number, offset among what waits, length
        self.next = self.committed = 0
        self.places: dict[int, Place] = {}

    @property
    def pending_bytes(self) -> int:
        """What `commit` would write."""
        return self._pending_bytes

    @property
    def nbytes(self) -> int:
        """What the log takes on the disk."""
        return sum(segment.nbytes for segment in self._segments())

    def _segments(self) -> list[Segment]:
        return self._closed if self._current is None else [*self._closed, self._current]

    def recover(self) -> Iterator[Record]:
        """Every whole record there is, in order; what is torn is cut off.

        A segment that was damaged ends with its last whole record, and the next one is read all the same: it begins with what
        the damaged one came to.

        Raises:
            OSError: if the disk cannot be read.
        """
        names = [name for name in self._disk.names() if name.endswith(SUFFIX) and name.removesuffix(SUFFIX).isdecimal()]
        firsts = [int(name.removesuffix(SUFFIX)) for name in names]
        for name, first, following in zip(names, firsts, [*firsts, MAX_RECORDS][1:], strict=True):
            yield from self._recover_segment(name, first, following)
        self.committed = self.next

    def _recover_segment(self, name: str, first: int, following: int) -> Iterator[Record]:
        """The records from `first` on; those from `following` on failed to be committed here and were written again."""
        data = self._disk.read(name)
        self.next = max(self.next, first)
        end = len(MAGIC)
        if data.startswith(MAGIC):
            for number, (offset, header_length, payload_length) in enumerate(whole_records(data), first):
                if number >= following:
                    break
                start = offset + _PREFIX.size
                end = start + header_length + payload_length
                self.next = max(self.next, number + 1)
                if payload_length:
                    self.places[number] = Place(name, start + header_length, payload_length)
                yield Record(number, data[start : start + header_length])
        if end == len(MAGIC):  # not one record: nothing here was ever committed
            self._disk.remove(name)
            return
        if end < len(data):
            self._disk.cut(name, end)
        self._closed.append(Segment(name, first, end))

    def read(self, number: int) -> bytes:
        """A record's payload; `places` has it.

        Raises:
            OSError: if the disk cannot be read.
        """
        return self._disk.read_part(*self.places[number])

    def append(self, header: bytes, payload: Buffer = b"") -> int:
        """Add a record, in memory; its number. A header is never empty."""
        view = memoryview(payload)
        self._pending.append(prefix_of(header, payload) + header)
        if view.nbytes:
            self._pending.append(view)
            self._pending_payloads.append((self.next, self._pending_bytes + _PREFIX.size + len(header), view.nbytes))
        self._pending_bytes += _PREFIX.size + len(header) + view.nbytes
        self.next += 1
        return self.next - 1

    def commit(self, state: Callable[[], bytes]) -> None:
        """Write and sync everything that waits. After an OSError nothing is lost: the next call writes all of it again.

        Args:
            state: gives a record that says all that the records before it have come to. One follows what waits whenever a new
                segment is begun, so that the segments before it can go once their payloads are not needed any more.

        Raises:
            OSError: if the disk cannot take it. What was written of it has been taken away as far as the disk allows.
        """
        if self._current is None or self._current.nbytes >= self._segment_bytes:
            self._begin(state)
        elif self._pending:
            self._write(self._current)

    def _begin(self, state: Callable[[], bytes]) -> None:
        """Begin a new segment with what waits, and the state after it."""
        self._give_up()
        segment = Segment(f"{self.committed:020d}{SUFFIX}", self.committed, 0)
        waiting, nbytes = len(self._pending), self._pending_bytes
        self.append(state())
        try:
            self._disk.create(segment.name)
            self._write(segment, MAGIC)
        except OSError:
            with contextlib.suppress(OSError):
                self._disk.remove(segment.name)
            del self._pending[waiting:]
            self._pending_bytes, self.next = nbytes, self.next - 1
            raise

    def _write(self, segment: Segment, *before: Buffer) -> None:
        try:
            self._disk.append([*before, *self._pending])
            self._disk.sync()
        except OSError:
            # After a failed sync nobody knows what of the file is on the disk, so it is never written to again.
            with contextlib.suppress(OSError):
                self._disk.cut(segment.name, segment.nbytes)
            self._give_up()
            raise
        base = segment.nbytes + sum(map(len, before))
        for number, offset, length in self._pending_payloads:
            self.places[number] = Place(segment.name, base + offset, length)
        self._current = segment._replace(nbytes=base + self._pending_bytes)
        self._clear()

    def _clear(self) -> None:
        self._pending, self._pending_bytes, self._pending_payloads = [], 0, []
        self.committed = self.next

    def discard(self) -> None:
        """Let go of what waits; the next commit begins a new segment, whose state makes up for it."""
        self._give_up()
        self._clear()

    def _give_up(self) -> None:
        """Append no more to the current segment."""
        if self._current is not None:
            self._closed.append(self._current)
            self._current = None

    def remove_before(self, number: int) -> None:
        """Remove the closed segments, the oldest first, all of whose records have lower numbers.

        None goes before a newer one has been begun, whose state stands for them. One that cannot be removed is tried again.
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


def prefix_of(header: bytes, payload: Buffer) -> bytes:
    """What stands before a record on disk."""
    lengths = _LENGTHS.pack(len(header), memoryview(payload).nbytes)
    return lengths + zlib.crc32(payload, zlib.crc32(header, zlib.crc32(lengths))).to_bytes(4, "little")


def read_record(file: BinaryIO, left: int) -> tuple[bytes, bytes] | None:
    """The header and the payload of the next record; None if there is no whole one.

    Args:
        file: at the record's beginning.
        left: bytes that the file has from there on.

    Raises:
        OSError: if the disk cannot be read.
    """
    prefix = file.read(PREFIX_BYTES)
    if len(prefix) < PREFIX_BYTES:
        return None
    header, payload, _ = _PREFIX.unpack(prefix)
    if not header or PREFIX_BYTES + header + payload > left:
        return None
    found = file.read(header), file.read(payload)
    return found if prefix_of(*found) == prefix else None


def whole_records(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Every whole record of a segment up to the first that is none: its offset, its header's length and its payload's."""
    offset = len(MAGIC)
    while offset + _PREFIX.size <= len(data):
        header, payload, crc = _PREFIX.unpack_from(data, offset)
        end = offset + _PREFIX.size + header + payload
        if not header or end - offset > MAX_RECORD_BYTES or end > len(data):
            return
        lengths = data[offset : offset + _LENGTHS.size]
        if zlib.crc32(memoryview(data)[offset + _PREFIX.size : end], zlib.crc32(lengths)) != crc:
            return
        yield offset, header, payload
        offset = end
