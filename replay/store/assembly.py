"""From rows in received frames to a batch in one buffer: each number is copied once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from protocol.data.run_schema import RunSchema
from protocol.data.shared_memory import SharedMemory
from protocol.data.trajectory import Array, BlockSize
from replay.store.queue import QueuedRows, Slice

OF_THE_SLICE = frozenset({"policy_version", "fresh", "importance"})
"""Fields that a slice says for all of its rows."""
MAX_SPARE_BUFFERS = 4
"""Buffers kept for coming batches, a rank's two in training and two on their way."""
SHARED_FROM_BYTES = 2**20
"""A smaller batch is sent sooner than it is mapped."""


@dataclass(slots=True, eq=False)
class Part:
    """One rank's share of a batch, packed."""

    batch_id: int
    buffer: Array  # [capacity] uint8, the memory
    payload: memoryview  # what travels
    size: BlockSize
    arrays: dict[str, Array]  # views of the payload by field name
    origin: list[Slice]  # where its rows came from; without their arrays
    fresh_rows: int  # the first rows are those that were not trained on before
    env_steps: int  # of those rows, steps in which the agent was present
    record: int = -1  # the journal's number of its cut
    recovered: bool = False  # cut by a server that has died: nothing but its fresh rows' origin is known
    priorities: Array | None = None  # [rows], as the learner has sent them
    place: str = ""  # where other processes of this machine find the buffer
    lent: bool = False  # the learner reads it there

    @property
    def rows(self) -> int:
        """Number of trajectories."""
        return self.size.trajectories

    def segments(self) -> Iterator[QueuedRows]:
        """The fresh rows as they would wait in the queue, for a batch that was not trained on; the others are forgotten."""
        start = 0
        for piece in self.origin:
            stop = start + piece.rows
            share = self.payload.nbytes * piece.rows // self.rows
            if piece.fresh:
                shift = piece.start + piece.shift - start
                yield QueuedRows(
                    self.arrays,
                    start,
                    stop,
                    piece.policy_version,
                    piece.arrived,
                    share,
                    record=piece.record,
                    shift=shift,
                    exempt=piece.exempt,
                )
            start = stop

    def places(self) -> Iterator[tuple[int, Slice]]:
        """Each row, with what it came in."""
        row = 0
        for piece in self.origin:
            for _ in range(piece.rows):
                yield row, piece
                row += 1


class Assembler:
    """Packs batches into buffers that are used again.

    Args:
        schema: the run's.
        steps: T.
    """

    def __init__(self, schema: RunSchema, steps: int) -> None:
        self._schema, self._steps = schema.batch, steps
        self._row_fields = [entry.name for entry in schema.batch.fields if entry.axis != "final"]
        self._copied = [name for name in self._row_fields if name not in OF_THE_SLICE]
        self._final_fields = final_fields(schema)
        self._spare: list[SharedMemory] = []

    def assemble(self, batch_id: int, slices: Sequence[Slice], *, shared: bool = False) -> Part:
        """Copy rows into one batch part, in order; fresh ones come first.

        Args:
            batch_id: the part's.
            slices: its rows.
            shared: whether the rank that it is for can read this machine's memory.
        """
        finals = [_finals(piece) for piece in slices]
        size = BlockSize(sum(piece.rows for piece in slices), self._steps, sum(map(len, finals)), 0)
        nbytes = self._schema.nbytes(size)
        memory = self._memory(nbytes, shared=shared and nbytes >= SHARED_FROM_BYTES)
        buffer = memory.array
        payload = buffer.data[:nbytes]
        arrays = self._schema.views(payload, size)
        self._copy_rows(arrays, slices)
        self._copy_finals(arrays, slices, finals)
        origin = [piece._replace(arrays={}) for piece in slices]
        fresh = sum(piece.rows for piece in slices if piece.fresh)
        env_steps = int(np.count_nonzero(arrays["valid"][:fresh]))
        return Part(batch_id, buffer, payload, size, arrays, origin, fresh, env_steps, place=memory.place)

    def _copy_rows(self, arrays: dict[str, Array], slices: Sequence[Slice]) -> None:
        counts = [piece.rows for piece in slices]
        arrays["fresh"][...] = np.repeat([piece.fresh for piece in slices], counts)
        arrays["policy_version"][...] = np.repeat([piece.policy_version for piece in slices], counts)
        arrays["importance"][...] = np.repeat([piece.importance for piece in slices], counts)
        for name in self._copied:
            if arrays[name].size:
                np.concatenate([piece.of(name) for piece in slices], out=arrays[name])

    def _copy_finals(self, arrays: dict[str, Array], slices: Sequence[Slice], finals: Sequence[Array]) -> None:
        row = place = 0
        for piece, chosen in zip(slices, finals, strict=True):
            if len(chosen):
                here = slice(place, place + len(chosen))
                for name in self._final_fields:
                    arrays[name][here] = piece.arrays[name][chosen]
                arrays["final_trajectory"][here] += row - piece.start
                place += len(chosen)
            row += piece.rows

    def _memory(self, nbytes: int, *, shared: bool) -> SharedMemory:
        """A spare buffer that is long enough, else a new one with room for a few more final observations."""
        for index, spare in enumerate(self._spare):
            if spare.array.nbytes >= nbytes and bool(spare.place) == shared:
                return self._spare.pop(index)
        capacity = nbytes + nbytes // 64
        made = SharedMemory.make(capacity) if shared else None
        return made or SharedMemory(np.empty(capacity, np.uint8), "")

    def recycle(self, part: Part) -> None:
        """Take back the buffer of a part that has been trained on. Its receiver has it whole, so no send is under way.

        One that was lent comes back when the learner says that it does not look at it any more.
        """
        if len(self._spare) >= MAX_SPARE_BUFFERS:
            self._spare.pop(0)
        self._spare.append(SharedMemory(part.buffer, part.place))


def final_fields(schema: RunSchema) -> tuple[str, ...]:
    """The names of a batch's fields that are there once a truncated step and not once a row."""
    return tuple(entry.name for entry in schema.batch.fields if entry.axis == "final")


def _finals(piece: Slice) -> Array:
    """Which of a block's final observations belong to these rows."""
    rows = piece.arrays["final_trajectory"]
    if not len(rows):
        return rows
    found: Array = np.flatnonzero((rows >= piece.start) & (rows < piece.stop))
    return found
