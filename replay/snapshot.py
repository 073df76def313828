"""The buffer's content on disk: files that are whole or absent, of which the newest two stay.

A file is a chain of records as the log's are, each with its length and checksum. The first says what run it is of, then come
rows, packed as in a batch, the oldest first, and the last one says how many there are: a file without it is none.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack

from protocol.codec import Buffer
from protocol.failpoints import failpoint
from protocol.schemas import RunSchema
from protocol.trajectory import Array, BlockSize
from replay.buffer import Past
from replay.log import MAGIC as LOG_MAGIC
from replay.log import PREFIX_BYTES, prefix_of, whole_records

MAGIC = b"oatmill buffer 1"
assert len(MAGIC) == len(LOG_MAGIC), "records begin at the same place"
FIRST, ROWS, LAST = "buffer", "rows", "end"
SUFFIX, WORKING = ".buffer", ".tmp"
KEPT = 2


class DamagedError(Exception):
    """A file is not what was written."""


@dataclass(frozen=True)
class About:
    """What a snapshot is of.

    Attributes:
        schema: `RunSchema.to_dict` of the run.
        fields: the names of a packed batch's.
        steps: T.
        learner_step: after which it was taken.
        policy_version: that was the newest then.
    """

    schema: Mapping[str, Any]
    fields: list[str]
    steps: int
    learner_step: int
    policy_version: int

    @staticmethod
    def of(schema: RunSchema, steps: int, learner_step: int, policy_version: int) -> About:
        """Of a run."""
        return About(schema.to_dict(), [entry.name for entry in schema.batch.fields], steps, learner_step, policy_version)

    def difference(self, other: About) -> str:
        """Why rows of the other cannot be taken here; empty if they can."""
        if self.steps != other.steps:
            return f"it holds trajectories of actors.unroll_length={other.steps}, this run has {self.steps}"
        if self.fields != other.fields:
            return "it was written by another version of oatmill"
        if msgpack.packb(self.schema) != msgpack.packb(other.schema):
            return "it holds trajectories of another environment or network"
        return ""


@dataclass(frozen=True)
class Chunk:
    """Some rows, packed.

    Attributes:
        finals: final observations in them.
        past: what the buffer knows of each row.
        payload: their arrays.
    """

    finals: int
    past: list[Past]
    payload: Buffer

    def size(self, steps: int) -> BlockSize:
        """What fixes the payload's length."""
        return BlockSize(len(self.past), steps, self.finals, 0)

    def arrays(self, schema: RunSchema, steps: int) -> dict[str, Array]:
        """Views of the payload."""
        return schema.batch.views(memoryview(self.payload), self.size(steps))


class SnapshotFolder:
    """Where a run's snapshots lie.

    Args:
        path: made when the first one is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def files(self) -> list[Path]:
        """Every snapshot, the newest first."""
        found = [path for path in self.path.glob(f"*{SUFFIX}") if path.stem.isdecimal()]
        return sorted(found, key=lambda path: int(path.stem), reverse=True)

    def sweep(self) -> None:
        """Remove what a crash while writing has left."""
        for left in self.path.glob(f"*{WORKING}"):
            with contextlib.suppress(OSError):
                left.unlink()

    def begin(self) -> SnapshotFile:
        """A new file, beside the newest one; those before it make room first.

        Raises:
            OSError: if it cannot be made.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self.sweep()
        files = self.files()
        for old in files[KEPT - 1 :]:
            old.unlink()
        number = int(files[0].stem) + 1 if files else 0
        return SnapshotFile(self.path / f"{number:010d}{SUFFIX}")


class SnapshotFile:
    """A file that is being written.

    Args:
        path: what it is called once it is whole.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._working = path, path.with_suffix(WORKING)
        self._rows = 0
        self._file = os.open(self._working, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)

    def head(self, about: About) -> None:
        """Write what it is of."""
        self._write(MAGIC)
        self._record([FIRST, about.schema, about.fields, about.steps, about.learner_step, about.policy_version])

    def add(self, chunk: Chunk) -> None:
        """Write some rows."""
        self._rows += len(chunk.past)
        self._record([ROWS, chunk.finals, [list(past) for past in chunk.past]], chunk.payload)
        failpoint("buffer.write.half")

    def finish(self) -> None:
        """Make it whole, durable and visible."""
        self._record([LAST, self._rows])
        os.fsync(self._file)
        self._close()
        failpoint("buffer.rename.before")
        self._working.rename(self._path)
        failpoint("buffer.rename.after")
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def give_up(self) -> None:
        """Leave nothing behind."""
        self._close()
        with contextlib.suppress(OSError):
            self._working.unlink()

    def _record(self, values: list[Any], payload: Buffer = b"") -> None:
        header: bytes = msgpack.packb(values)
        self._write(prefix_of(header, payload))
        self._write(header)
        self._write(payload)

    def _write(self, data: Buffer) -> None:
        rest = memoryview(data).cast("B") if memoryview(data).nbytes else memoryview(b"")
        while rest.nbytes:
            rest = rest[os.write(self._file, rest) :]

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class Snapshot:
    """A whole file that can be read.

    Args:
        path: of it.

    Attributes:
        about: what it is of.
        rows: how many it holds.

    Raises:
        DamagedError: if it is not as it was written.
        OSError: if it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""
        try:
            self._read()
        except (LookupError, TypeError, ValueError, msgpack.UnpackException) as error:
            raise DamagedError(f"{type(error).__name__}: {error}") from None

    def _read(self) -> None:
        """Every checksum is looked at before anything is believed."""
        if self._data[: len(MAGIC)] != MAGIC:
            raise DamagedError("it does not begin as a snapshot does")
        records = list(whole_records(self._data))
        (first, *_), (last, header, payload) = records[0], records[-1]
        kind, *about = self._header(first)
        end, *rows = self._header(last)
        if kind != FIRST or end != LAST or last + PREFIX_BYTES + header + payload != len(self._data):
            raise DamagedError("it ends before it is whole")
        self.about = About(*about)
        self._chunks = [self._places(*record) for record in records[1:-1]]
        self.rows = sum(len(past) for _, past, _, _ in self._chunks)
        if rows != [self.rows]:
            raise DamagedError("rows are missing")

    def _header(self, offset: int) -> list[Any]:
        header = int.from_bytes(self._data[offset : offset + 4], "little")
        start = offset + PREFIX_BYTES
        values: list[Any] = msgpack.unpackb(self._data[start : start + header])
        return values

    def _places(self, offset: int, header: int, payload: int) -> tuple[int, list[Past], int, int]:
        kind, finals, past = self._header(offset)
        if kind != ROWS:
            raise DamagedError("its records are out of order")
        return finals, [Past(*values) for values in past], offset + PREFIX_BYTES + header, payload

    def chunks(self) -> Iterator[Chunk]:
        """The rows, the oldest first; they lie in the file as long as they are looked at."""
        for finals, past, start, length in self._chunks:
            yield Chunk(finals, past, memoryview(self._data)[start : start + length])
