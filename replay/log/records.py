"""The format of a log: each record has its own number, so that records after a damaged one can be found.

A segment begins with a head: MAGIC, the run's id, the number up to which the segments before it
were written, and a checksum. A record consists of a mark to search for, five little-endian numbers
(its own number, how far back its group began, the length of the header, the length of the payload,
and the CRC-32 of everything), its header and its payload. A group is what was written and synced at
once.

Logs in the old format (before numbers) can be read, too. In them, the first damaged record ends the
segment.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

from protocol.wire.codec import Buffer

MAGIC = b"oatmill log 2\n\0\0"
OLD_MAGIC = b"oatmill log 1\n\0\0"
SYNC = bytes([0x8B]) + b"OMR"
MAX_RECORD_BYTES = 2**31
"""The largest record. A larger length is damage."""
MAX_RUN_BYTES = 32
_HEAD = struct.Struct(f"<16s{MAX_RUN_BYTES}sQ")
HEAD_BYTES = _HEAD.size + 4
_NUMBERS = struct.Struct("<QIII")
RECORD_BYTES = len(SYNC) + _NUMBERS.size + 4
"""The number of bytes before a record's header."""
_LENGTHS = struct.Struct("<II")
_PREFIX = struct.Struct("<III")
PREFIX_BYTES = _PREFIX.size


class SegmentHead(NamedTuple):
    """The head of a segment.

    Attributes:
        run: the id of its run; empty in the old format, which does not have it.
        after: every record below this number was written to earlier segments; None in the old
            format.
    """

    run: str
    after: int | None


class FoundRecord(NamedTuple):
    """A complete record in a segment."""

    number: int
    group: int  # the number of its group's first record: all records before that one were synced earlier
    offset: int  # of its header
    header: int  # bytes
    payload: int

    @property
    def end(self) -> int:
        """The offset of the next record."""
        return self.offset + self.header + self.payload


@dataclass
class Scan:
    """The content of a segment. The head is None if it is damaged."""

    head: SegmentHead | None
    records: list[FoundRecord] = field(default_factory=list)


def head_of(run: str, after: int) -> bytes:
    """Return the first bytes of a segment."""
    head = _HEAD.pack(MAGIC, run.encode()[:MAX_RUN_BYTES], after)
    return head + zlib.crc32(head).to_bytes(4, "little")


def read_head(data: bytes) -> SegmentHead | None:
    """Return the head in the first bytes of a segment; None if it is damaged."""
    if data.startswith(OLD_MAGIC):
        return SegmentHead("", None)
    head = data[: _HEAD.size]
    if len(data) < HEAD_BYTES or zlib.crc32(head).to_bytes(4, "little") != data[_HEAD.size : HEAD_BYTES]:
        return None
    magic, run, after = _HEAD.unpack(head)
    return SegmentHead(run.rstrip(b"\0").decode(errors="replace"), after) if magic == MAGIC else None


def record_of(number: int, group: int, header: bytes, payload: Buffer) -> bytes:
    """Return the bytes of a record, without its payload."""
    numbers = _NUMBERS.pack(number, number - group, len(header), memoryview(payload).nbytes)
    checksum = zlib.crc32(payload, zlib.crc32(header, zlib.crc32(numbers)))
    return SYNC + numbers + checksum.to_bytes(4, "little") + header


def scan(data: bytes, first: int) -> Scan:
    """Return all complete records of a segment, also those after damaged ones.

    Args:
        data: the segment's bytes.
        first: the number of its first record.
    """
    head = read_head(data)
    old = head is not None and head.after is None
    records = [] if old else list(_records(data, 0 if head is None else HEAD_BYTES))
    if not records and (old or head is None):
        records = [
            FoundRecord(number, first, offset + PREFIX_BYTES, header, payload)
            for number, (offset, header, payload) in enumerate(old_records(data), first)
        ]
    return Scan(head, records)


def _records(data: bytes, offset: int) -> Iterator[FoundRecord]:
    least = 0
    while offset >= 0:
        record = whole_at(data, offset)
        if record is None or record.number < least:
            offset = data.find(SYNC, offset + 1)
        else:
            yield record
            least, offset = record.number + 1, record.end


def whole_at(data: bytes, offset: int) -> FoundRecord | None:
    """Return the complete record that begins at an offset; None if there is none."""
    read = read_numbers(data, offset)
    if read is None:
        return None
    found, checksum = read
    if not found.header or found.header + found.payload > MAX_RECORD_BYTES or found.end > len(data) or found.group < 0:
        return None
    return found if checksum_at(data, offset, found) == checksum else None


def read_numbers(data: bytes, offset: int) -> tuple[FoundRecord, int] | None:
    """Return the numbers before a record, and its checksum; None if no record begins here."""
    start = offset + RECORD_BYTES
    if start > len(data) or not data.startswith(SYNC, offset):
        return None
    number, back, header, payload = _NUMBERS.unpack_from(data, offset + len(SYNC))
    return FoundRecord(number, number - back, start, header, payload), int.from_bytes(data[start - 4 : start], "little")


def checksum_at(data: bytes, offset: int, found: FoundRecord) -> int:
    """Return the checksum of the bytes that a record would have."""
    view = memoryview(data)
    return zlib.crc32(view[found.offset : found.end], zlib.crc32(view[offset + len(SYNC) : found.offset - 4]))


def old_records(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the offset and the lengths of header and payload of each record in the old format, up to damage."""
    offset = len(OLD_MAGIC)
    while offset + PREFIX_BYTES <= len(data):
        header, payload, crc = _PREFIX.unpack_from(data, offset)
        end = offset + PREFIX_BYTES + header + payload
        if not header or end - offset > MAX_RECORD_BYTES or end > len(data):
            return
        lengths = data[offset : offset + _LENGTHS.size]
        if zlib.crc32(memoryview(data)[offset + PREFIX_BYTES : end], zlib.crc32(lengths)) != crc:
            return
        yield offset, header, payload
        offset = end


def prefix_of(header: bytes, payload: Buffer) -> bytes:
    """Return the bytes before a record without a number (old logs, snapshots of the replay buffer)."""
    lengths = _LENGTHS.pack(len(header), memoryview(payload).nbytes)
    return lengths + zlib.crc32(payload, zlib.crc32(header, zlib.crc32(lengths))).to_bytes(4, "little")


def read_record(file: BinaryIO, left: int) -> tuple[bytes, bytes] | None:
    """Return header and payload of the next record without a number; None if there is no complete one.

    Args:
        file: positioned at the beginning of the record.
        left: the number of bytes in the file from there on.

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
