"""The part of every batch that is sampled from the replay buffer, and the buffer's snapshots."""

from __future__ import annotations

from typing import Any

from protocol.data.run_schema import RunSchema
from replay.store.assembly import Part
from replay.store.buffer import BufferSettings, ReplayBuffer, replayed_rows
from replay.store.queue import Slice
from replay.store.snapshot import SnapshotInfo
from replay.store.snapshot_saver import OUTCOMES, BufferSaver


class ReplayedShare:
    """Ingest's access to the replay buffer.

    If the fraction is 0, there is no buffer, and nothing here does anything.

    Args:
        settings: the run's settings.
        steps: T, the length of an unroll.
        saver: writes and restores snapshots; None for a buffer that is lost with its process.
    """

    def __init__(self, settings: BufferSettings, steps: int, saver: BufferSaver | None = None) -> None:
        self._settings, self._steps, self._saver = settings, steps, saver
        self._schema: RunSchema | None = None
        self._saved_step = 0  # the learner step of the newest checkpoint
        self.buffer: ReplayBuffer | None = None

    def describe(self, schema: RunSchema, now: float) -> None:
        """Create the buffer, and fill it from the snapshot of an earlier server."""
        if not self._settings.fraction:
            return
        self._schema, self.buffer = schema, ReplayBuffer(schema, self._steps, self._settings)
        if self._saver is not None:
            most = self._settings.max_times_sampled
            self._saver.restore(self.buffer, schema, self._steps, most_sampled=most, now=now)

    def rows(self, part_rows: int, world: int) -> int:
        """Return how many rows of a rank's part are sampled: 0 until the buffer has as many as a batch takes."""
        rows = replayed_rows(self._settings.fraction, part_rows)
        return rows if self.buffer is not None and self.buffer.rows >= rows * world else 0

    def draw(self, rows: int) -> list[Slice]:
        """Draw this many different rows."""
        return self.buffer.sample(rows) if self.buffer is not None and rows else []

    def trained(self, part: Part, version: int) -> None:
        """Insert a part that was trained on."""
        if self.buffer is not None:
            self.buffer.insert(part, version)

    def will_come_again(self, resumed_from: int) -> None:
        """Remove rows that led to later policy versions, because they are queued again.

        A snapshot may contain them, too, and a server that restarts now would restore them. So a
        new one is written.
        """
        if self.buffer is not None:
            self.buffer.forget(resumed_from)
            self.save(self._saved_step, resumed_from)

    def save(self, learner_step: int, policy_version: int) -> None:
        """Write a snapshot of the buffer, for a checkpoint."""
        self._saved_step = learner_step
        if self._saver is not None and self._schema is not None:
            self._saver.ask(SnapshotInfo.of(self._schema, self._steps, learner_step, policy_version))

    def turn(self, *, settled: bool) -> None:
        """Continue to write a snapshot.

        Args:
            settled: whether the log contains everything that has happened. A snapshot begins only
                then. Otherwise, rows whose training is not in the log yet would be in the queue and
                in the buffer after a crash.
        """
        if self._saver is not None and self.buffer is not None and self._schema is not None:
            self._saver.turn(self.buffer, self._schema, self._steps, may_begin=settled)

    @property
    def at_work(self) -> bool:
        """Whether `turn` has something to do at once."""
        return self._saver is not None and self._saver.at_work

    def close(self) -> None:
        """Finish the snapshot that is being written, within a time limit."""
        if self._saver is not None:
            self._saver.close(self.buffer, self._schema, self._steps)

    def summary(self) -> dict[str, int]:
        """Return rows, memory and capacity; zeros without a buffer."""
        if self.buffer is None:
            return {"trajectories": 0, "bytes": 0, "capacity": 0}
        return {"trajectories": self.buffer.rows, "bytes": self.buffer.nbytes, "capacity": self.buffer.capacity}

    def snapshots(self) -> dict[str, Any]:
        """Return the outcomes of snapshots, and the duration of the last one."""
        if self._saver is None:
            return {"outcomes": dict.fromkeys(OUTCOMES, 0), "seconds": 0.0}
        return {"outcomes": dict(self._saver.counts), "seconds": self._saver.seconds}
