"""How many trajectories each actor may send: credit and queue together stay within a capacity, in whole blocks, in turn.

A row costs what the largest one can hold (`RunSchema.row_bytes`), so the bound on rows is a bound on bytes. It cannot
deadlock: while no batch can be cut, fewer than one batch of rows waits, so what is free covers the largest block as soon as no
credit is out; and credit that is out is used, or counted out because it is late, or taken back because its holder is dead.

Credit that a slow or silent actor holds is *late*: it stays valid, but while the learner has to wait for data it is not
counted, so that the others have the whole capacity. docs/decisions/023 has the rules and the bounds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from math import ceil
from typing import Protocol

from replay.ingest.pace import Pace, fleet_seconds

MAX_WINDOW_BLOCKS = 16
MAX_WINDOW_BYTES = 16 * 2**20
"""The most credit of one actor, if that is more than one block."""
SHARES = 4
"""One actor may hold this fraction of its fair share of the capacity ahead of its use (one block at least)."""
PATIENCE = 2.0
"""An actor is slow, and its credit late, when it takes this many times as long as the fleet."""
SLOW_AFTER_S = 0.02
"""An actor that usually takes less than this is not slow, whatever the others take."""
LATE_AFTER_S = 0.1
"""Credit of an actor that is usually fast is not late before this, so that a busy machine's hiccups do not count."""
SILENT_AFTER_S = 30.0
SILENT_TIMES_FLEET, SILENT_TIMES_OWN = 10.0, 4.0
"""An actor is silent when others have sent data for `silent_after_s` and it has sent none, and when this is also so many times
what the fleet takes, and what it usually takes itself."""
LOOK_EVERY_S = 0.05
STALLED_S = 1.0
"""A longer time between two looks means that this process stood still; it is not counted against the actors."""
LENDING_BATCHES = 8
"""Late credit is not counted until the learner has had this many batches without having to wait."""


class Holder(Protocol):
    """A session, as far as credit goes."""

    credit: int  # rows that it may send
    waits: bool  # whether it stands in line
    since: float  # when it was given what it holds, or sent its last block if that was later
    pace: Pace
    slow: bool  # it usually takes far longer than the fleet
    late: bool  # what it holds, one block, is late
    silent: bool  # it has sent nothing for very long

    @property
    def rows(self) -> int:
        """Trajectories of one block."""

    @property
    def open(self) -> bool:
        """Whether it may hold credit at all."""


class CreditLine:
    """Hands credit out to sessions in the order in which they came to want it.

    Args:
        batch_rows: trajectories of one batch.
        queue_batches: batches that may wait.
        silent_after_s: seconds without data after which an actor may be called silent.

    Attributes:
        outstanding: rows of credit that are out and not late.
        late: rows of late credit, at most one block an actor.
        slow: sessions that are slow.
        silent: sessions that are silent.
    """

    def __init__(self, *, batch_rows: int, queue_batches: float, silent_after_s: float = SILENT_AFTER_S) -> None:
        self._silent_after_s = silent_after_s
        self._queue_batches = queue_batches
        self._base = ceil(queue_batches * batch_rows)
        self._line: deque[Holder] = deque()
        self._largest = 1
        self._rows = 0  # of one block of every session
        self._window_blocks = 1
        self._learner_waits = False
        self._lending = 0  # batches for which late credit is still not counted
        self._looked_at = self._waits_since = 0.0
        self._delivered_at = 0.0  # when any session last used credit
        self.outstanding = self.late = 0
        self.slow: Sequence[Holder] = ()
        self.silent: Sequence[Holder] = ()

    @property
    def capacity(self) -> int:
        """The limit of credit and queue together, in rows: the batches that may wait, plus one block, minus one row."""
        return self._base + self._largest - 1

    @property
    def bound(self) -> int:
        """The limit of all credit and the queue, in rows. While there are slow actors, it is one block of each actor higher."""
        return self.capacity + (self._rows if self.late or self.slow else 0)

    def expect(self, batch_rows: int) -> None:
        """Change how many fresh trajectories a batch takes; what is out beyond the new bound is used up first."""
        self._base = ceil(self._queue_batches * batch_rows)

    def resize(self, holders: Iterable[Holder], row_bytes: int) -> None:
        """Fit capacity and windows to the sessions that are open."""
        rows = [holder.rows for holder in holders if holder.open]
        self._largest, self._rows = max(rows, default=1), sum(rows)
        fair = self.capacity // (SHARES * max(1, self._rows))
        affordable = MAX_WINDOW_BYTES // max(1, self._largest * row_bytes)
        self._window_blocks = max(1, min(fair, affordable, MAX_WINDOW_BLOCKS))

    def learner_waits(self, waits: bool) -> None:  # noqa: FBT001  (it is the only thing that is said)
        """Say whether the learner asks for a batch that cannot be cut yet."""
        self._learner_waits = waits
        if waits:
            self._lending = LENDING_BATCHES

    def cut(self) -> None:
        """Count a batch that was cut."""
        self._lending = max(0, self._lending - 1)

    def room(self, queued: int) -> int:
        """Rows that may be granted now.

        Args:
            queued: rows that wait, cut or not.
        """
        free = self.capacity - self.outstanding - queued
        if not self._lending:
            return free - self.late
        if self._learner_waits and (self.late or self.slow):
            # What is begun while the learner waits is as young as what is begun when it has its batch: nobody need pause.
            free += min(self._base, self._rows - self.late)
        return free

    def want(self, holder: Holder) -> None:
        """Put a session in line, if it may have more than it has."""
        window = 1 if holder.late or holder.slow else self._window_blocks
        if not holder.waits and holder.open and holder.credit < window * holder.rows:
            holder.waits = True
            self._line.append(holder)

    def grant(self, queued: int, now: float) -> list[Holder]:
        """Hand out what is free.

        Args:
            queued: rows that wait, cut or not.
            now: seconds of the monotonic clock.

        Returns:
            The sessions that got some, to be told.
        """
        granted: list[Holder] = []
        while self._line:
            holder = self._line[0]
            if holder.open and holder.rows > self.room(queued):
                break
            self._line.popleft()
            holder.waits = False
            if holder.open and not holder.late:
                self._give(holder, now)
                granted.append(holder)
                self.want(holder)
        return granted

    def _give(self, holder: Holder, now: float) -> None:
        if not holder.credit:
            holder.since = now
        holder.credit += holder.rows
        self.outstanding += holder.rows
        if holder.slow:
            self._make_late(holder)

    def _make_late(self, holder: Holder) -> None:
        """Count what a session holds as late: one block. What it holds beyond that is taken back."""
        self.outstanding -= holder.credit
        self.late += holder.rows
        holder.credit, holder.late = holder.rows, True

    def admit(self, holder: Holder, rows: int, queued: int, now: float) -> bool:
        """Whether rows that came may be stored: under credit, which they use up, or because there is room all the same."""
        holder.silent = False
        if holder.credit < rows:
            return rows <= self.room(queued)
        holder.credit -= rows
        if holder.late:
            self.late -= rows
            holder.late = False
        else:
            self.outstanding -= rows
        holder.pace.took(now - holder.since)
        holder.since = self._delivered_at = now
        return True

    def take_back(self, holder: Holder) -> None:
        """Take a session's credit away."""
        if holder.late:
            self.late -= holder.credit
        else:
            self.outstanding -= holder.credit
        holder.credit, holder.late, holder.silent = 0, False, False

    def look(self, holders: Iterable[Holder], now: float) -> list[Holder]:
        """Find out whose credit is late and who is silent. Call it when no message waits, for one may bring what is missed.

        Args:
            holders: every session.
            now: seconds of the monotonic clock.

        Returns:
            The sessions that hold less than before, to be told.
        """
        passed = now - self._looked_at
        if passed < LOOK_EVERY_S:
            return []
        stood_still = passed if passed > STALLED_S else 0.0
        self._looked_at = now
        present = [holder for holder in holders if holder.open]
        if not self._learner_waits:
            self._waits_since = now
        known = fleet_seconds(holder.pace for holder in present)
        usual = self._unknown_pace(now) if known is None else known
        less = []
        for holder in present:
            holder.since = min(now, holder.since + stood_still)
            before = holder.credit
            self._judge(holder, usual, now)
            if holder.credit < before:
                less.append(holder)
        self.slow = [holder for holder in present if holder.slow]
        self.silent = [holder for holder in present if holder.silent]
        return less

    def _unknown_pace(self, now: float) -> float:
        """What stands for the fleet's pace while nobody has sent a block, perhaps because those who could have no credit."""
        waited_long = now - self._waits_since > self._silent_after_s
        return self._silent_after_s / PATIENCE if waited_long else float("inf")

    def _judge(self, holder: Holder, usual: float, now: float) -> None:
        own = holder.pace.seconds or 0.0
        holder.slow = own > max(SLOW_AFTER_S, PATIENCE * usual)
        if not holder.credit:
            return
        if not holder.late and (holder.slow or now - holder.since > max(LATE_AFTER_S, PATIENCE * usual)):
            self._make_late(holder)
        patience = max(self._silent_after_s, SILENT_TIMES_FLEET * usual, SILENT_TIMES_OWN * own)
        if self._delivered_at - holder.since > patience:
            holder.silent = True
