"""The replay buffer: trajectories that were trained on and can be sampled again.

Rows are in arrays that are allocated once, with one slot per row. So memory is bounded from the
start, and a row is copied once when it is inserted and once when it is sampled. Only final
observations, of which a row can have any number, are stored separately.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from protocol.data.run_schema import RunSchema
from protocol.data.trajectory import Array, BlockSize
from replay.store.assembly import Part, final_fields
from replay.store.queue import Slice
from replay.store.sampling import chances, draw, importance

NOBODY = -1
"""The ticket of an empty slot."""


@dataclass(frozen=True)
class BufferSettings:
    """The settings of the replay buffer.

    Attributes:
        fraction: the fraction of each batch that is sampled from the buffer.
        size: its capacity in trajectories.
        max_bytes: its memory in bytes.
        eviction: which trajectory is removed from a full buffer: the oldest (`fifo`) or a random
            one (`random`).
        max_times_sampled: a trajectory is removed after it was sampled this often; 0 for no limit.
        seed: the seed for sampling.
        sampling: `uniform`, or `prioritised`: in proportion to a power of the priorities.
        priority_exponent: alpha, that power.
        importance_exponent: beta, how much less a row counts that is sampled more often.
    """

    fraction: float = 0.0
    size: int = 0
    max_bytes: int = 0
    eviction: str = "fifo"
    max_times_sampled: int = 0
    seed: int = 0
    sampling: str = "uniform"
    priority_exponent: float = 0.6
    importance_exponent: float = 0.4

    @property
    def prioritised(self) -> bool:
        """Whether the learner must send priorities."""
        return self.fraction > 0 and self.sampling == "prioritised"


NO_BUFFER = BufferSettings()


class RowHistory(NamedTuple):
    """The history of a row in the buffer.

    Attributes:
        sampled: how often it was sampled.
        priority: the newest priority from the learner; NaN for none.
        trained: the policy version after it was first trained on.
    """

    sampled: int = 0
    priority: float = float("nan")
    trained: int = -1


class ReplayBuffer:
    """Slots for trajectories. Within a batch, no trajectory is sampled twice.

    Args:
        schema: the run's schema.
        steps: T, the length of an unroll.
        settings: size, eviction and sampling.

    Attributes:
        capacity: the number of slots.
        rows: the number of slots that contain a trajectory.
    """

    def __init__(self, schema: RunSchema, steps: int, settings: BufferSettings) -> None:
        self._settings = settings
        self.capacity = capacity_of(schema, steps, settings)
        size = BlockSize(self.capacity, steps, 0, 0)
        memory = np.empty(schema.batch.nbytes(size), np.uint8)  # the system allocates its pages when rows are inserted
        self._arrays = schema.batch.views(memory.data, size)
        self._row_bytes = memory.nbytes // self.capacity
        self._final_fields = final_fields(schema)
        self._row_fields = [name for name in self._arrays if name not in self._final_fields]
        self._finals: list[dict[str, Array]] = [{name: self._arrays[name] for name in self._final_fields}] * self.capacity
        self._arrived = np.zeros(self.capacity)
        self._sampled = np.zeros(self.capacity, np.int64)
        self._priorities = np.full(self.capacity, np.nan)
        self._trained = np.full(self.capacity, -1, np.int64)
        self._tickets = np.full(self.capacity, NOBODY, np.int64)  # a unique number for each row, because slots are reused
        self._next_ticket = 0
        self._live = np.zeros(self.capacity, np.int64)  # its first `rows` entries are the used slots, the oldest first
        self._free = list(range(self.capacity - 1, -1, -1))
        self._generator = np.random.default_rng(settings.seed)
        self.rows = 0
        self._finals_bytes = 0

    @property
    def nbytes(self) -> int:
        """The memory of its rows in bytes."""
        return self.rows * self._row_bytes + self._finals_bytes

    def insert(self, part: Part, version: int = -1) -> None:
        """Insert the fresh rows of a trained part, and update the priorities of the others.

        Args:
            part: the part, with priorities if the learner has sent them.
            version: the policy version after it.
        """
        told = np.full(part.rows, np.nan) if part.priorities is None else part.priorities
        for row, piece in part.places():
            if piece.fresh:
                self.put(part.arrays, row, RowHistory(0, float(told[row]), version), piece.arrived)
            elif part.priorities is not None and self._tickets[piece.start] == piece.ticket:
                self._priorities[piece.start] = told[row]

    def put(self, arrays: Mapping[str, Array], row: int, past: RowHistory, arrived: float) -> None:
        """Insert one row of a packed batch, by copying it."""
        slot = self._slot()
        for name in self._row_fields:
            self._arrays[name][slot] = arrays[name][row]
        self._arrived[slot] = arrived
        self._sampled[slot], self._priorities[slot], self._trained[slot] = past
        self._tickets[slot] = self._next_ticket
        self._next_ticket += 1
        self._keep_finals(slot, row, arrays)
        self._live[self.rows] = slot
        self.rows += 1

    def _keep_finals(self, slot: int, row: int, arrays: Mapping[str, Array]) -> None:
        chosen = np.flatnonzero(arrays["final_trajectory"] == row)
        finals = {name: arrays[name][chosen] for name in self._final_fields}
        finals["final_trajectory"][...] = slot
        self._finals[slot] = finals
        self._finals_bytes += sum(array.nbytes for array in finals.values())

    def _slot(self) -> int:
        """Return a free slot. If there is none, one is emptied."""
        if not self._free:
            fifo = self._settings.eviction == "fifo"
            self._remove(np.array([0 if fifo else int(self._generator.integers(self.rows))]))
        return self._free.pop()

    def _remove(self, places: Array) -> None:
        """Empty the slots at these positions of `_live`. The others stay in order."""
        slots = self._live[places]
        kept = np.delete(self._live[: self.rows], places)
        self.rows = len(kept)
        self._live[: self.rows] = kept
        self._tickets[slots] = NOBODY
        for slot in slots.tolist():
            self._finals_bytes -= sum(array.nbytes for array in self._finals[slot].values())
            self._finals[slot] = {name: self._arrays[name] for name in self._final_fields}
            self._free.append(slot)

    def clear(self) -> None:
        """Remove all rows."""
        self._remove(np.arange(self.rows))

    def forget(self, resumed_from: int) -> None:
        """Remove the rows that were trained on under later policy versions: they will be trained on again."""
        self._remove(np.flatnonzero(self._trained[self._live[: self.rows]] > resumed_from))

    def sample(self, rows: int) -> list[Slice]:
        """Draw different rows. There must be enough."""
        assert rows <= self.rows, f"{rows} rows asked for, {self.rows} there"
        places, counts = self._drawn(rows)
        slots = self._live[places]
        drawn = [self._slice(slot, count) for slot, count in zip(slots.tolist(), counts.tolist(), strict=True)]
        self._sampled[slots] += 1
        if self._settings.max_times_sampled:
            # A drawn batch may still read the removed rows: only a later insert overwrites their slots.
            self._remove(places[self._sampled[slots] >= self._settings.max_times_sampled])
        return drawn

    def _drawn(self, rows: int) -> tuple[Array, Array]:
        """Return positions in `_live`, and the importance weight of each row there."""
        settings = self._settings
        if not settings.prioritised:
            return self._generator.choice(self.rows, rows, replace=False), np.ones(rows)
        chance = chances(self._priorities[self._live[: self.rows]], settings.priority_exponent)
        places = draw(chance, rows, self._generator)
        return places, importance(chance, places, settings.importance_exponent)

    def _slice(self, slot: int, count: float = 1.0) -> Slice:
        version = int(self._arrays["policy_version"][slot])
        arrays = self._arrays | self._finals[slot]
        ticket = int(self._tickets[slot])
        return Slice(arrays, slot, slot + 1, version, float(self._arrived[slot]), fresh=False, importance=count, ticket=ticket)

    def standing(self) -> list[tuple[int, int]]:
        """Return the slot and the ticket of every row, the oldest first."""
        slots = self._live[: self.rows]
        return list(zip(slots.tolist(), self._tickets[slots].tolist(), strict=True))

    def kept(self, standing: Sequence[tuple[int, int]]) -> list[tuple[Slice, RowHistory]]:
        """Return the rows of `standing` that are still there. Read them before the buffer changes."""
        there = [slot for slot, ticket in standing if self._tickets[slot] == ticket]
        return [(self._slice(slot), self._past(slot)) for slot in there]

    def _past(self, slot: int) -> RowHistory:
        return RowHistory(int(self._sampled[slot]), float(self._priorities[slot]), int(self._trained[slot]))


def capacity_of(schema: RunSchema, steps: int, settings: BufferSettings) -> int:
    """Return the number of slots that size and memory allow, if each row has its largest possible size."""
    return max(1, min(settings.size, settings.max_bytes // schema.row_bytes(steps)))


def replayed_rows(fraction: float, rows: int) -> int:
    """Return how many rows of a rank's part come from the buffer: the fraction, rounded down.

    So some rows are always fresh.
    """
    return int(fraction * rows + 1e-9)
