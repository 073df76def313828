"""The queue of fresh trajectories, first in, first out.

Nothing is copied on the way in: rows stay in the frames that they arrived in, and a frame is
released when its last row was cut into a batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from protocol.data.trajectory import Array


@dataclass(slots=True, eq=False)
class QueuedRows:
    """Rows of one block that wait, all collected under one policy version."""

    arrays: dict[str, Array]  # views by field name, [n, ...] of the whole block
    start: int  # the first row that waits
    stop: int  # one past the last
    policy_version: int
    arrived: float  # seconds of the monotonic clock
    nbytes: int  # the size of the memory that the views keep alive
    record: int = -1  # the journal's record of the block
    shift: int = 0  # the row of the block minus the row of the views
    source: Callable[[], dict[str, Array]] | None = None  # returns the views of a block that is in the log
    exempt: bool = False  # never too old: a learner has lost its training on it and repeats it

    @property
    def rows(self) -> int:
        """The number of waiting rows."""
        return self.stop - self.start

    def views(self) -> dict[str, Array]:
        """Return the block's arrays, read from the log if they are there."""
        if self.source is not None:
            self.arrays, self.source = self.source(), None
        return self.arrays


class Slice(NamedTuple):
    """Rows that were taken from the queue, or drawn from the replay buffer."""

    arrays: dict[str, Array]
    start: int
    stop: int
    policy_version: int
    arrived: float
    fresh: bool = True  # whether it was not trained on before
    record: int = -1
    shift: int = 0
    exempt: bool = False
    importance: float = 1.0  # the weight of its rows in the losses
    ticket: int = -1  # identifies the row in the replay buffer

    @property
    def rows(self) -> int:
        """The number of rows."""
        return self.stop - self.start

    def of(self, name: str) -> Array:
        """Return one field of these rows."""
        values = self.arrays[name]
        return values if len(values) == self.stop - self.start else values[self.start : self.stop]

    @property
    def of_block(self) -> tuple[int, int, int]:
        """The rows in the journal's terms: the block's record, the first row, one past the last row."""
        return self.record, self.start + self.shift, self.stop + self.shift


class TrajectoryQueue:
    """Rows in the order in which they will be trained on.

    Attributes:
        rows: the number of waiting trajectories.
        nbytes: the memory that they keep alive, in bytes.
    """

    def __init__(self) -> None:
        self._waiting: deque[QueuedRows] = deque()
        self.rows = 0
        self.nbytes = 0

    def append(self, queued: QueuedRows) -> None:
        """Append rows at the end."""
        self._waiting.append(queued)
        self._count(queued)

    def put_back(self, returned: Iterable[QueuedRows]) -> None:
        """Insert rows at the front, the first one first."""
        for queued in reversed(list(returned)):
            self._waiting.appendleft(queued)
            self._count(queued)

    def _count(self, queued: QueuedRows) -> None:
        self.rows += queued.rows
        self.nbytes += queued.nbytes

    def drop_stale(self, oldest_version: int, *, keep: int) -> list[Slice]:
        """Drop rows that were collected before a policy version, beginning at the front.

        Args:
            oldest_version: the oldest version that may be trained on.
            keep: the number of rows that stay, however old they are, so that the learner does not
                wait for newer ones.

        Returns:
            The dropped rows.
        """
        dropped: list[Slice] = []
        for queued in list(self._waiting) if self.rows > keep else []:
            spare = self.rows - keep
            if spare <= 0:
                break
            if queued.policy_version < oldest_version and not queued.exempt:
                dropped.append(self._drop(queued, min(spare, queued.rows)))
        return dropped

    def _drop(self, queued: QueuedRows, rows: int) -> Slice:
        dropped = _sliced(queued, {}, rows)
        queued.start += rows
        self.rows -= rows
        if not queued.rows:
            self._waiting.remove(queued)
            self.nbytes -= queued.nbytes
        return dropped

    def take(self, rows: int) -> list[Slice]:
        """Cut this many rows from the front. There must be enough."""
        assert rows <= self.rows, f"{rows} rows asked for, {self.rows} there"
        slices: list[Slice] = []
        self.rows -= rows
        while rows:
            queued = self._waiting[0]
            taken = min(rows, queued.rows)
            slices.append(_sliced(queued, queued.views(), taken))
            queued.start += taken
            rows -= taken
            if not queued.rows:
                self.nbytes -= self._waiting.popleft().nbytes
        return slices


def _sliced(queued: QueuedRows, arrays: dict[str, Array], rows: int) -> Slice:
    """Return the first of some queued rows."""
    return Slice(
        arrays,
        queued.start,
        queued.start + rows,
        queued.policy_version,
        queued.arrived,
        record=queued.record,
        shift=queued.shift,
        exempt=queued.exempt,
    )
