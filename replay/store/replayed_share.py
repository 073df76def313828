"""The part of every batch that is sampled again: the buffer, its snapshots, and how many rows come from it."""

from __future__ import annotations

from typing import Any

from protocol.data.run_schema import RunSchema
from replay.store.assembly import Part
from replay.store.buffer import BufferSettings, ReplayBuffer, replayed_rows
from replay.store.queue import Slice
from replay.store.snapshot import About
from replay.store.snapshot_saver import OUTCOMES, BufferSaver


class ReplayedShare:
    """What ingest knows of replay; without a fraction there is no buffer, and nothing here does anything.

    Args:
        settings: the run's.
        steps: T.
        saver: writes and restores snapshots; None for a buffer that ends with its process.
    """

    def __init__(self, settings: BufferSettings, steps: int, saver: BufferSaver | None = None) -> None:
        self._settings, self._steps, self._saver = settings, steps, saver
        self._schema: RunSchema | None = None
        self._saved_step = 0  # the learner step of the newest checkpoint
        self.buffer: ReplayBuffer | None = None

    def describe(self, schema: RunSchema, now: float) -> None:
        """Make the buffer, and fill it with what an earlier server has saved."""
        if not self._settings.fraction:
            return
        self._schema, self.buffer = schema, ReplayBuffer(schema, self._steps, self._settings)
        if self._saver is not None:
            most = self._settings.max_times_sampled
            self._saver.restore(self.buffer, schema, self._steps, most_sampled=most, now=now)

    def rows(self, part_rows: int, world: int) -> int:
        """How many rows of a rank's part come from the buffer: none until it holds as many as a batch takes."""
        rows = replayed_rows(self._settings.fraction, part_rows)
        return rows if self.buffer is not None and self.buffer.rows >= rows * world else 0

    def draw(self, rows: int) -> list[Slice]:
        """As many different rows."""
        return self.buffer.sample(rows) if self.buffer is not None and rows else []

    def trained(self, part: Part, version: int) -> None:
        """Insert a part that was trained on."""
        if self.buffer is not None:
            self.buffer.insert(part, version)

    def will_come_again(self, resumed_from: int) -> None:
        """Remove the rows that led to later policy versions: they are queued again, and would be in the buffer twice.

        A snapshot may hold it too, and a server that dies now would have it from there.
        """
        if self.buffer is not None:
            self.buffer.forget(resumed_from)
            self.save(self._saved_step, resumed_from)

    def save(self, learner_step: int, policy_version: int) -> None:
        """Write what the buffer holds, for a checkpoint."""
        self._saved_step = learner_step
        if self._saver is not None and self._schema is not None:
            self._saver.ask(About.of(self._schema, self._steps, learner_step, policy_version))

    def turn(self, *, settled: bool) -> None:
        """Go on with what is being written.

        Args:
            settled: whether the log holds all that has happened. A snapshot begins only then: what was trained on and is not
                in the log yet would wait in the queue again after a crash, and be in the buffer too.
        """
        if self._saver is not None and self.buffer is not None and self._schema is not None:
            self._saver.turn(self.buffer, self._schema, self._steps, may_begin=settled)

    @property
    def at_work(self) -> bool:
        """Whether `turn` has something to do at once."""
        return self._saver is not None and self._saver.at_work

    def close(self) -> None:
        """Finish what is being written, within bounded time."""
        if self._saver is not None:
            self._saver.close(self.buffer, self._schema, self._steps)

    def summary(self) -> dict[str, int]:
        """Rows, memory and room; zeros without a buffer."""
        if self.buffer is None:
            return {"trajectories": 0, "bytes": 0, "capacity": 0}
        return {"trajectories": self.buffer.rows, "bytes": self.buffer.nbytes, "capacity": self.buffer.capacity}

    def snapshots(self) -> dict[str, Any]:
        """How snapshots have ended, and what the last one took."""
        if self._saver is None:
            return {"outcomes": dict.fromkeys(OUTCOMES, 0), "seconds": 0.0}
        return {"outcomes": dict(self._saver.counts), "seconds": self._saver.seconds}
