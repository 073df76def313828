"""Snapshots of the replay buffer: files that are complete or absent. The newest two are kept.

A file is a sequence of records as in the log, each with its length and checksum. The first record
describes the run, then follow rows, packed as in a batch, the oldest first. The last record has the
number of rows; a file without it is incomplete.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgpack

from oatmill.files.atomic import sync_path
from oatmill.process.failpoints import failpoint
from protocol.data.run_schema import RunSchema
from protocol.data.trajectory import Array, BlockSize
from protocol.wire.codec import Buffer
from replay.log.records import prefix_of, read_record
from replay.store.buffer import RowHistory

MAGIC = b"oatmill buffer 1"
FIRST, ROWS, LAST = "buffer", "rows", "end"
SUFFIX, WORKING = ".buffer", ".tmp"
BUFFER_FOLDER = "buffer"
"""The folder of snapshots, in the log's folder."""
KEPT = 2


class DamagedError(Exception):
    """A snapshot is damaged."""


@dataclass(frozen=True)
class SnapshotInfo:
    """The description of a snapshot.

    Attributes:
        schema: `RunSchema.to_dict` of the run.
        fields: the names of the fields of a packed batch.
        steps: T, the length of an unroll.
        learner_step: the learner step after which it was taken.
        policy_version: the newest version at that time.
    """

    schema: Mapping[str, Any]
    fields: list[str]
    steps: int
    learner_step: int
    policy_version: int

    @staticmethod
    def of(schema: RunSchema, steps: int, learner_step: int, policy_version: int) -> SnapshotInfo:
        """Describe a run."""
        return SnapshotInfo(
            schema.to_dict(), [entry.name for entry in schema.batch.fields], steps, learner_step, policy_version
        )

    def difference(self, other: SnapshotInfo) -> str:
        """Describe why rows of another snapshot cannot be used here; empty if they can."""
        if self.steps != other.steps:
            return f"it has trajectories of actors.unroll_length={other.steps}, this run has {self.steps}"
        if self.fields != other.fields:
            return "it was written by another version of oatmill"
        if msgpack.packb(self.schema) != msgpack.packb(other.schema):
            return "it has trajectories of another environment or network"
        return ""


@dataclass(frozen=True)
class Chunk:
    """Some rows, packed.

    Attributes:
        finals: the number of final observations in them.
        past: the history of each row.
        payload: their arrays.
    """

    finals: int
    past: list[RowHistory]
    payload: Buffer

    def size(self, steps: int) -> BlockSize:
        """Return the size that determines the payload's length."""
        return BlockSize(len(self.past), steps, self.finals, 0)

    def arrays(self, schema: RunSchema, steps: int) -> dict[str, Array]:
        """Return views of the payload."""
        return schema.batch.views(memoryview(self.payload), self.size(steps))


class SnapshotFolder:
    """The folder of a run's snapshots.

    Args:
        path: the folder, created when the first snapshot is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def files(self) -> list[Path]:
        """Return all snapshots, the newest first."""
        found = [path for path in self.path.glob(f"*{SUFFIX}") if path.stem.isdecimal()]
        return sorted(found, key=lambda path: int(path.stem), reverse=True)

    def sweep(self) -> None:
        """Remove incomplete files that a crash has left."""
        for left in self.path.glob(f"*{WORKING}"):
            with contextlib.suppress(OSError):
                left.unlink()

    def begin(self) -> SnapshotFile:
        """Create a new file. Older ones are removed first, except the newest.

        Raises:
            OSError: if it cannot be created.
        """
        self.path.mkdir(exist_ok=True)
        self.sweep()
        files = self.files()
        for old in files[KEPT - 1 :]:
            old.unlink()
        number = int(files[0].stem) + 1 if files else 0
        return SnapshotFile(self.path / f"{number:010d}{SUFFIX}")


class SnapshotFile:
    """A snapshot that is being written.

    Args:
        path: its path once it is complete.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._working = path, path.with_suffix(WORKING)
        self._rows = 0
        self._file = os.open(self._working, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)

    def head(self, info: SnapshotInfo) -> None:
        """Write the description."""
        self._write(MAGIC)
        self._record([FIRST, info.schema, info.fields, info.steps, info.learner_step, info.policy_version])

    def add(self, chunk: Chunk) -> None:
        """Write some rows."""
        self._rows += len(chunk.past)
        self._record([ROWS, chunk.finals, [list(past) for past in chunk.past]], chunk.payload)
        failpoint("buffer.write.half")

    def finish(self) -> None:
        """Complete the file, sync it and rename it."""
        self._record([LAST, self._rows])
        os.fsync(self._file)
        self._close()
        failpoint("buffer.rename.before")
        self._working.rename(self._path)
        failpoint("buffer.rename.after")
        sync_path(self._path.parent)

    def give_up(self) -> None:
        """Remove the file."""
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


class ChunkPlace(NamedTuple):
    """The position and the description of some rows."""

    finals: int
    past: list[RowHistory]
    offset: int  # the position of the payload
    length: int


class BufferSnapshot:
    """A complete snapshot that can be read.

    Args:
        path: its file.

    Attributes:
        info: its description.
        places: the positions of its rows, the oldest first.

    Raises:
        DamagedError: if it is damaged.
        OSError: if it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.places: list[ChunkPlace] = []
        try:
            with path.open("rb") as file:
                self.info = self._read(file, path.stat().st_size)
        except (LookupError, TypeError, ValueError, msgpack.UnpackException) as error:
            raise DamagedError(f"{type(error).__name__}: {error}") from None

    @property
    def rows(self) -> int:
        """The number of its rows."""
        return sum(len(place.past) for place in self.places)

    def _read(self, file: BinaryIO, size: int) -> SnapshotInfo:
        """Check every checksum before anything is used."""
        if file.read(len(MAGIC)) != MAGIC:
            raise DamagedError("it does not begin like a snapshot")
        info: SnapshotInfo | None = None
        while (record := read_record(file, size - file.tell())) is not None:
            header, payload = record
            kind, *values = msgpack.unpackb(header)
            if kind == FIRST and info is None:
                info = SnapshotInfo(*values)
            elif kind == ROWS and info is not None:
                finals, past = values
                self.places.append(
                    ChunkPlace(finals, [RowHistory(*one) for one in past], file.tell() - len(payload), len(payload))
                )
            elif kind == LAST and info is not None and values == [self.rows] and file.tell() == size:
                return info
            else:
                raise DamagedError("its records are damaged")
        raise DamagedError("its end is missing")

    def fits(self, schema: RunSchema) -> bool:
        """Whether every payload has the length that the schema requires."""
        return all(
            schema.batch.nbytes(BlockSize(len(place.past), self.info.steps, place.finals, 0)) == place.length
            for place in self.places
        )

    def chunks(self) -> Iterator[Chunk]:
        """Yield the rows, the oldest first.

        Raises:
            OSError: if they cannot be read.
        """
        with self._path.open("rb") as file:
            for place in self.places:
                file.seek(place.offset)
                yield Chunk(place.finals, place.past, file.read(place.length))
