"""The queue of fresh trajectories: whole rows, first in first out, kept by reference in the frames that they came in.

A segment is a run of rows of one block. Nothing is copied on the way in; a frame is released when its last row has been
cut into a batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from protocol.trajectory import Array


@dataclass(slots=True, eq=False)
class Segment:
    """Rows of one block that still wait, all collected under one policy version."""

    arrays: dict[str, Array]  # views by field name, [n, ...] of the whole block
    start: int  # the first row that waits
    stop: int  # one past the last
    policy_version: int
    arrived: float  # seconds of the monotonic clock
    nbytes: int  # of the memory that the views keep alive

    @property
    def rows(self) -> int:
        """Rows that wait."""
        return self.stop - self.start


class Slice(NamedTuple):
    """Rows that have been cut out of a segment, or drawn from the buffer."""

    arrays: dict[str, Array]
    start: int
    stop: int
    policy_version: int
    arrived: float
    fresh: bool = True  # not trained on before

    @property
    def rows(self) -> int:
        """How many."""
        return self.stop - self.start


class TrajectoryQueue:
    """Segments in order.

    Attributes:
        rows: trajectories that wait.
        nbytes: memory that they keep alive.
    """

    def __init__(self) -> None:
        self._segments: deque[Segment] = deque()
        self.rows = 0
        self.nbytes = 0

    def append(self, segment: Segment) -> None:
        """Put rows at the end."""
        self._segments.append(segment)
        self._count(segment)

    def put_back(self, segments: Iterable[Segment]) -> None:
        """Put rows at the head, the first segment first."""
        for segment in reversed(list(segments)):
            self._segments.appendleft(segment)
            self._count(segment)

    def _count(self, segment: Segment) -> None:
        self.rows += segment.rows
        self.nbytes += segment.nbytes

    def drop_stale(self, oldest_version: int, *, keep: int) -> int:
        """Drop rows that were collected before a policy version, the ones at the head first.

        Args:
            oldest_version: the oldest version that is still good.
            keep: rows that stay whatever their age, so that the learner never starves for want of young ones.

        Returns:
            How many were dropped.
        """
        dropped = 0
        for segment in list(self._segments) if self.rows > keep else []:
            spare = self.rows - keep
            if spare <= 0:
                break
            if segment.policy_version < oldest_version:
                dropped += self._drop(segment, min(spare, segment.rows))
        return dropped

    def _drop(self, segment: Segment, rows: int) -> int:
        segment.start += rows
        self.rows -= rows
        if not segment.rows:
            self._segments.remove(segment)
            self.nbytes -= segment.nbytes
        return rows

    def take(self, rows: int) -> list[Slice]:
        """Cut this many rows from the head; there must be that many."""
        assert rows <= self.rows, f"{rows} rows asked for, {self.rows} there"
        slices: list[Slice] = []
        self.rows -= rows
        while rows:
            segment = self._segments[0]
            taken = min(rows, segment.rows)
            slices.append(Slice(segment.arrays, segment.start, segment.start + taken, segment.policy_version, segment.arrived))
            segment.start += taken
            rows -= taken
            if not segment.rows:
                self.nbytes -= self._segments.popleft().nbytes
        return slices
