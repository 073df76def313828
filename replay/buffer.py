"""The buffer of trajectories that were trained on and are kept to be sampled again.

Rows lie in arrays that are made once, one slot a row, so memory is bounded from the start and a row is copied once on the way
in and once on the way out. Only final observations, of which a row has any number, are kept row by row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from protocol.schemas import RunSchema
from protocol.trajectory import Array, BlockSize
from replay.assembly import FINAL_FIELDS, Part
from replay.queue import Slice


@dataclass(frozen=True)
class BufferSettings:
    """What the buffer needs of config.yaml.

    Attributes:
        fraction: of each batch, sampled from the buffer.
        size: trajectories that it holds.
        max_bytes: memory that they may take.
        eviction: which one makes room: the oldest (`fifo`), or any (`random`).
        max_times_sampled: how often a trajectory may be sampled before it leaves; 0 for any number.
        seed: of what is sampled.
    """

    fraction: float = 0.0
    size: int = 0
    max_bytes: int = 0
    eviction: str = "fifo"
    max_times_sampled: int = 0
    seed: int = 0


NO_BUFFER = BufferSettings()


class ReplayBuffer:
    """Slots of trajectories, sampled uniformly and without repetition within a batch.

    Args:
        schema: the run's.
        steps: T.
        settings: size, eviction and the number of times that a row may be sampled.

    Attributes:
        capacity: slots.
        rows: slots that hold a trajectory.
    """

    def __init__(self, schema: RunSchema, steps: int, settings: BufferSettings) -> None:
        self._settings = settings
        self.capacity = capacity_of(schema, steps, settings)
        size = BlockSize(self.capacity, steps, 0, 0)
        memory = np.empty(schema.batch.nbytes(size), np.uint8)  # the system gives it page by page, as rows come
        self._arrays = schema.batch.views(memory.data, size)
        self._row_bytes = memory.nbytes // self.capacity
        self._finals: list[dict[str, Array]] = [{name: self._arrays[name] for name in FINAL_FIELDS}] * self.capacity
        self._arrived = np.zeros(self.capacity)
        self._sampled = np.zeros(self.capacity, np.int64)
        self._live = np.zeros(self.capacity, np.int64)  # the first `rows` of it are the slots in use, oldest first if `fifo`
        self._free = list(range(self.capacity - 1, -1, -1))
        self._generator = np.random.default_rng(settings.seed)
        self.rows = 0
        self._finals_bytes = 0

    @property
    def nbytes(self) -> int:
        """Memory that the rows in it take."""
        return self.rows * self._row_bytes + self._finals_bytes

    def insert(self, part: Part) -> None:
        """Keep the rows of a trained part that were fresh in it; copies them."""
        arrays = part.arrays
        for row, arrived in enumerate(part.arrivals()):
            slot = self._slot()
            for name, kept in self._arrays.items():
                if name not in FINAL_FIELDS:
                    kept[slot] = arrays[name][row]
            self._arrived[slot] = arrived
            self._keep_finals(slot, row, arrays)
            self._live[self.rows] = slot
            self.rows += 1

    def _keep_finals(self, slot: int, row: int, arrays: dict[str, Array]) -> None:
        chosen = np.flatnonzero(arrays["final_trajectory"] == row)
        finals = {name: arrays[name][chosen] for name in FINAL_FIELDS}
        finals["final_trajectory"][...] = slot
        self._finals[slot] = finals
        self._finals_bytes += sum(array.nbytes for array in finals.values())

    def _slot(self) -> int:
        """A free slot; if there is none, one is emptied."""
        if not self._free:
            fifo = self._settings.eviction == "fifo"
            self._remove(np.array([0 if fifo else int(self._generator.integers(self.rows))]))
        return self._free.pop()

    def _remove(self, places: Array) -> None:
        """Empty the slots at these places of `_live`; the others stay in order."""
        slots = self._live[places]
        kept = np.delete(self._live[: self.rows], places)
        self.rows = len(kept)
        self._live[: self.rows] = kept
        for slot in slots.tolist():
            self._finals_bytes -= sum(array.nbytes for array in self._finals[slot].values())
            self._finals[slot] = {name: self._arrays[name] for name in FINAL_FIELDS}
            self._sampled[slot] = 0
            self._free.append(slot)

    def sample(self, rows: int) -> list[Slice]:
        """Draw different rows, each as likely as any other; there must be that many."""
        assert rows <= self.rows, f"{rows} rows asked for, {self.rows} there"
        places = self._generator.choice(self.rows, rows, replace=False)
        slots = self._live[places]
        drawn = [self._slice(slot) for slot in slots.tolist()]
        self._sampled[slots] += 1
        if self._settings.max_times_sampled:
            # What leaves is still read by whoever drew it: a slot is only written to by a later insert.
            self._remove(places[self._sampled[slots] >= self._settings.max_times_sampled])
        return drawn

    def _slice(self, slot: int) -> Slice:
        version = int(self._arrays["policy_version"][slot])
        arrays = self._arrays | self._finals[slot]
        return Slice(arrays, slot, slot + 1, version, float(self._arrived[slot]), fresh=False)


def capacity_of(schema: RunSchema, steps: int, settings: BufferSettings) -> int:
    """The slots that size and memory allow, counting each row at the most that it can hold."""
    return max(1, min(settings.size, settings.max_bytes // schema.row_bytes(steps)))


def replayed_rows(fraction: float, rows: int) -> int:
    """How many of a rank's rows are sampled from the buffer: the fraction, rounded down, so that some are always fresh."""
    return int(fraction * rows + 1e-9)
