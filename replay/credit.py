"""How many trajectories each actor may send: sum(credits) + queued <= capacity, in whole blocks, first come first served.

A row costs what the largest one can hold (`RunSchema.row_bytes`), so the bound on rows is a bound on bytes. It cannot
deadlock: while no batch can be cut, fewer than one batch of rows waits, so what is free covers the largest block as soon as no
credit is out; and credit that is out is either used or taken back when its holder is dead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from math import ceil
from typing import Protocol

MAX_WINDOW_BLOCKS = 16
MAX_WINDOW_BYTES = 16 * 2**20
"""The most credit of one actor, if that is more than one block."""
SHARES = 4
"""One actor may hold this fraction of its fair share of the capacity ahead of its use (one block at least)."""


class Holder(Protocol):
    """A session, as far as credit goes."""

    rows: int  # of one block
    credit: int  # rows that it may send
    waits: bool  # whether it stands in line

    @property
    def open(self) -> bool:
        """Whether it may hold credit at all."""


class CreditLine:
    """Hands credit out to sessions in the order in which they came to want it.

    Args:
        batch_rows: trajectories of one batch.
        queue_batches: batches that may wait.

    Attributes:
        outstanding: rows of credit that are out.
    """

    def __init__(self, *, batch_rows: int, queue_batches: float) -> None:
        self._queue_batches = queue_batches
        self._base = ceil(queue_batches * batch_rows)
        self._line: deque[Holder] = deque()
        self._largest = 1
        self._window_blocks = 1
        self.outstanding = 0

    @property
    def capacity(self) -> int:
        """Rows that credit and queue may come to: the batches that may wait and one block less one row."""
        return self._base + self._largest - 1

    def expect(self, batch_rows: int) -> None:
        """Change how many fresh trajectories a batch takes; what is out beyond the new bound is used up first."""
        self._base = ceil(self._queue_batches * batch_rows)

    def resize(self, holders: Iterable[Holder], row_bytes: int) -> None:
        """Fit capacity and windows to the sessions that are open."""
        rows = [holder.rows for holder in holders if holder.open]
        self._largest = max(rows, default=1)
        fair = self.capacity // (SHARES * max(1, sum(rows)))
        affordable = MAX_WINDOW_BYTES // max(1, self._largest * row_bytes)
        self._window_blocks = max(1, min(fair, affordable, MAX_WINDOW_BLOCKS))

    def want(self, holder: Holder) -> None:
        """Put a session in line, if it may have more than it has."""
        if not holder.waits and holder.open and holder.credit < self._window_blocks * holder.rows:
            holder.waits = True
            self._line.append(holder)

    def grant(self, queued: int) -> list[Holder]:
        """Hand out what is free.

        Args:
            queued: rows that wait, cut or not.

        Returns:
            The sessions that got some, to be told.
        """
        granted: list[Holder] = []
        while self._line:
            holder = self._line[0]
            if holder.open and holder.rows > self.capacity - self.outstanding - queued:
                break
            self._line.popleft()
            holder.waits = False
            if holder.open:
                holder.credit += holder.rows
                self.outstanding += holder.rows
                granted.append(holder)
                self.want(holder)
        return granted

    def admit(self, holder: Holder, rows: int, queued: int) -> bool:
        """Whether rows that came may be stored: under credit, which they use up, or because there is room all the same."""
        if holder.credit >= rows:
            holder.credit -= rows
            self.outstanding -= rows
            return True
        return rows <= self.capacity - self.outstanding - queued

    def take_back(self, holder: Holder) -> None:
        """Take a session's credit away."""
        self.outstanding -= holder.credit
        holder.credit = 0
