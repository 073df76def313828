"""The buffer of trajectories that were trained on and are kept to be sampled again.

Rows lie in arrays that are made once, one slot a row, so memory is bounded from the start and a row is copied once on the way
in and once on the way out. Only final observations, of which a row has any number, are kept row by row.
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
    """What the buffer needs of config.yaml.

    Attributes:
        fraction: of each batch, sampled from the buffer.
        size: trajectories that it holds.
        max_bytes: memory that they may take.
        eviction: which one makes room: the oldest (`fifo`), or any (`random`).
        max_times_sampled: how often a trajectory may be sampled before it leaves; 0 for any number.
        seed: of what is sampled.
        sampling: all alike (`uniform`), or in proportion to a power of their priorities (`prioritised`).
        priority_exponent: alpha, that power.
        importance_exponent: beta, how far sampled rows count for less where they are sampled more often.
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
        """Whether the learner is asked for priorities."""
        return self.fraction > 0 and self.sampling == "prioritised"


NO_BUFFER = BufferSettings()


class Past(NamedTuple):
    """What the buffer knows of a row beside its arrays.

    Attributes:
        sampled: how often it was.
        priority: the newest one that the learner has sent; NaN for none.
        trained: the policy version that its first training gave.
    """

    sampled: int = 0
    priority: float = float("nan")
    trained: int = -1


class ReplayBuffer:
    """Slots of trajectories, sampled without repetition within a batch.

    Args:
        schema: the run's.
        steps: T.
        settings: size, eviction, how rows are sampled and how often one may be.

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
        self._final_fields = final_fields(schema)
        self._row_fields = [name for name in self._arrays if name not in self._final_fields]
        self._finals: list[dict[str, Array]] = [{name: self._arrays[name] for name in self._final_fields}] * self.capacity
        self._arrived = np.zeros(self.capacity)
        self._sampled = np.zeros(self.capacity, np.int64)
        self._priorities = np.full(self.capacity, np.nan)
        self._trained = np.full(self.capacity, -1, np.int64)
        self._tickets = np.full(self.capacity, NOBODY, np.int64)  # a number for every row there ever was: slots are used again
        self._next_ticket = 0
        self._live = np.zeros(self.capacity, np.int64)  # the first `rows` of it are the slots in use, the oldest first
        self._free = list(range(self.capacity - 1, -1, -1))
        self._generator = np.random.default_rng(settings.seed)
        self.rows = 0
        self._finals_bytes = 0

    @property
    def nbytes(self) -> int:
        """Memory that the rows in it take."""
        return self.rows * self._row_bytes + self._finals_bytes

    def insert(self, part: Part, version: int = -1) -> None:
        """Keep the rows of a trained part that were fresh in it, which copies them, and take in what was told of the others.

        Args:
            part: the part, with the learner's priorities if it has sent them.
            version: the policy version that it gave.
        """
        told = np.full(part.rows, np.nan) if part.priorities is None else part.priorities
        for row, piece in part.places():
            if piece.fresh:
                self.put(part.arrays, row, Past(0, float(told[row]), version), piece.arrived)
            elif part.priorities is not None and self._tickets[piece.start] == piece.ticket:
                self._priorities[piece.start] = told[row]

    def put(self, arrays: Mapping[str, Array], row: int, past: Past, arrived: float) -> None:
        """Keep one row of a packed batch; copies it."""
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
        self._tickets[slots] = NOBODY
        for slot in slots.tolist():
            self._finals_bytes -= sum(array.nbytes for array in self._finals[slot].values())
            self._finals[slot] = {name: self._arrays[name] for name in self._final_fields}
            self._free.append(slot)

    def clear(self) -> None:
        """Let go of everything."""
        self._remove(np.arange(self.rows))

    def forget(self, resumed_from: int) -> None:
        """Let go of what was trained on under later policy versions than this, because it will be trained on again."""
        self._remove(np.flatnonzero(self._trained[self._live[: self.rows]] > resumed_from))

    def sample(self, rows: int) -> list[Slice]:
        """Draw different rows; there must be that many."""
        assert rows <= self.rows, f"{rows} rows asked for, {self.rows} there"
        places, counts = self._drawn(rows)
        slots = self._live[places]
        drawn = [self._slice(slot, count) for slot, count in zip(slots.tolist(), counts.tolist(), strict=True)]
        self._sampled[slots] += 1
        if self._settings.max_times_sampled:
            # Rows that leave may still be read by a drawn batch: only a later insert writes to their slots.
            self._remove(places[self._sampled[slots] >= self._settings.max_times_sampled])
        return drawn

    def _drawn(self, rows: int) -> tuple[Array, Array]:
        """Places of `_live`, and what each row there counts for."""
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
        """The slot and the ticket of every row, the oldest first."""
        slots = self._live[: self.rows]
        return list(zip(slots.tolist(), self._tickets[slots].tolist(), strict=True))

    def kept(self, standing: Sequence[tuple[int, int]]) -> list[tuple[Slice, Past]]:
        """Those of `standing` that are still there, to be read before anything else is done with the buffer."""
        there = [slot for slot, ticket in standing if self._tickets[slot] == ticket]
        return [(self._slice(slot), self._past(slot)) for slot in there]

    def _past(self, slot: int) -> Past:
        return Past(int(self._sampled[slot]), float(self._priorities[slot]), int(self._trained[slot]))


def capacity_of(schema: RunSchema, steps: int, settings: BufferSettings) -> int:
    """The slots that size and memory allow, counting each row at the most that it can hold."""
    return max(1, min(settings.size, settings.max_bytes // schema.row_bytes(steps)))


def replayed_rows(fraction: float, rows: int) -> int:
    """How many of a rank's rows are sampled from the buffer: the fraction, rounded down, so that some are always fresh."""
    return int(fraction * rows + 1e-9)
