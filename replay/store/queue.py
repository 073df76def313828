"""The queue of fresh trajectories: whole rows, first in first out, kept by reference in the frames that they came in.

A segment is a run of rows of one block. Nothing is copied on the way in; a frame is released when its last row has been
cut into a batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from protocol.data.trajectory import Array


@dataclass(slots=True, eq=False)
class QueuedRows:
    """Rows of one block that still wait, all collected under one policy version."""

    arrays: dict[str, Array]  # views by field name, [n, ...] of the whole block
    start: int  # the first row that waits
    stop: int  # one past the last
    policy_version: int
    arrived: float  # seconds of the monotonic clock
    nbytes: int  # of the memory that the views keep alive
    record: int = -1  # the journal's number of the block
    shift: int = 0  # what makes a row of the block out of a row of the views
    source: Callable[[], dict[str, Array]] | None = None  # gives the views, for a block that lies in the log
    exempt: bool = False  # its age does not count: a learner has forgotten it and is to train on it again

    @property
    def rows(self) -> int:
        """Rows that wait."""
        return self.stop - self.start

    def views(self) -> dict[str, Array]:
        """The block's arrays, read from the log if they lie there."""
        if self.source is not None:
            self.arrays, self.source = self.source(), None
        return self.arrays


class Slice(NamedTuple):
    """Rows that have been cut out of a segment, or drawn from the buffer."""

    arrays: dict[str, Array]
    start: int
    stop: int
    policy_version: int
    arrived: float
    fresh: bool = True  # not trained on before
    record: int = -1
    shift: int = 0
    exempt: bool = False
    importance: float = 1.0  # what its terms count for
    ticket: int = -1  # the buffer's, by which it knows the row again

    @property
    def rows(self) -> int:
        """How many."""
        return self.stop - self.start

    def of(self, name: str) -> Array:
        """One field of them."""
        values = self.arrays[name]
        return values if len(values) == self.stop - self.start else values[self.start : self.stop]

    @property
    def of_block(self) -> tuple[int, int, int]:
        """The same rows as the journal knows them: the block's number, the first row of it, one past the last."""
        return self.record, self.start + self.shift, self.stop + self.shift


class TrajectoryQueue:
    """Segments in order.

    Attributes:
        rows: trajectories that wait.
        nbytes: memory that they keep alive.
    """

    def __init__(self) -> None:
        self._segments: deque[QueuedRows] = deque()
        self.rows = 0
        self.nbytes = 0

    def append(self, segment: QueuedRows) -> None:
        """Put rows at the end."""
        self._segments.append(segment)
        self._count(segment)

    def put_back(self, segments: Iterable[QueuedRows]) -> None:
        """Put rows at the head, the first segment first."""
        for segment in reversed(list(segments)):
            self._segments.appendleft(segment)
            self._count(segment)

    def _count(self, segment: QueuedRows) -> None:
        self.rows += segment.rows
        self.nbytes += segment.nbytes

    def drop_stale(self, oldest_version: int, *, keep: int) -> list[Slice]:
        """Drop rows that were collected before a policy version, the ones at the head first.

        Args:
            oldest_version: the oldest version that is still good.
            keep: number of rows that stay at any age, so that the learner does not wait for younger ones.

        Returns:
            What was dropped.
        """
        dropped: list[Slice] = []
        for segment in list(self._segments) if self.rows > keep else []:
            spare = self.rows - keep
            if spare <= 0:
                break
            if segment.policy_version < oldest_version and not segment.exempt:
                dropped.append(self._drop(segment, min(spare, segment.rows)))
        return dropped

    def _drop(self, segment: QueuedRows, rows: int) -> Slice:
        dropped = _sliced(segment, {}, rows)
        segment.start += rows
        self.rows -= rows
        if not segment.rows:
            self._segments.remove(segment)
            self.nbytes -= segment.nbytes
        return dropped

    def take(self, rows: int) -> list[Slice]:
        """Cut this many rows from the head; there must be that many."""
        assert rows <= self.rows, f"{rows} rows asked for, {self.rows} there"
        slices: list[Slice] = []
        self.rows -= rows
        while rows:
            segment = self._segments[0]
            taken = min(rows, segment.rows)
            slices.append(_sliced(segment, segment.views(), taken))
            segment.start += taken
            rows -= taken
            if not segment.rows:
                self.nbytes -= self._segments.popleft().nbytes
        return slices


def _sliced(segment: QueuedRows, arrays: dict[str, Array], rows: int) -> Slice:
    """The first rows of a segment."""
    return Slice(
        arrays,
        segment.start,
        segment.start + rows,
        segment.policy_version,
        segment.arrived,
        record=segment.record,
        shift=segment.shift,
        exempt=segment.exempt,
    )
