"""Decides how many trajectories each actor may send.

Credit and queue together stay within a capacity, which grows by one batch while the learner has to wait
for data. Credit is given in whole blocks, in the order of requests. A row (trajectory) costs what the
largest one can need (`RunSchema.row_bytes`), so the limit on rows is a limit on bytes.

It cannot deadlock. While no batch can be cut, fewer rows than one batch wait. So there is room for the
largest block as soon as no credit is outstanding. Outstanding credit does not stay forever: it is used, or
no longer counted because it is late, or taken back because its holder is dead.

Credit that a slow or silent actor holds is *late*. It stays valid, but it is not counted while the learner
has to wait for data, so that the other actors can use the whole capacity. The rules and the bounds are in
docs/decisions/002 and 023.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from math import ceil
from typing import Protocol

from replay.ingest.actors.pace import Pace, fleet_seconds

MAX_WINDOW_BLOCKS = 16
MAX_WINDOW_BYTES = 16 * 2**20
"""The largest credit of one actor in bytes, unless one block is larger."""
SHARES = 4
"""An actor may hold its fair share of the capacity, divided by this number, as credit in advance (but at
least one block)."""
PATIENCE = 2.0
"""An actor is slow, and its credit is late, when it takes this many times as long as the fleet."""
SLOW_AFTER_S = 0.02
"""An actor that usually takes less than this is not slow, however fast the others are."""
LATE_AFTER_S = 0.1
"""The credit of an actor that is usually fast is never late before this time, so that short delays of a
busy machine do not matter."""
SILENT_AFTER_S = 30.0
SILENT_TIMES_FLEET, SILENT_TIMES_OWN = 10.0, 4.0
"""An actor is silent when others have sent data for `silent_after_s` seconds while it sent none. This time
must also be at least this many times the fleet's pace and the actor's own pace."""
LOOK_EVERY_S = 0.05
STALLED_S = 1.0
"""If more time passes between two looks, this process was paused. The pause does not count as time that
actors took."""
LENDING_BATCHES = 8
"""Late credit is counted again only after the learner has received this many batches without waiting."""


def most_rows(queue_batches: float, fresh: int, block: int) -> int:
    """The limit of credit and queue together: the waiting batches, plus one block, minus one row.

    Args:
        queue_batches: the number of batches that may wait.
        fresh: the number of fresh trajectories in a batch.
        block: the number of trajectories in the largest block.
    """
    return waiting_rows(queue_batches, fresh) + block - 1


def waiting_rows(queue_batches: float, fresh: int) -> int:
    """The number of trajectories that may wait for the learner, without the block that is being sent."""
    return ceil(queue_batches * fresh)


def most_rows_while_waiting(queue_batches: float, fresh: int, block: int, *, synchronous: bool) -> int:
    """The same limit while the learner has to wait for data. It grows by the waiting batches, unless actors are synchronous."""
    return most_rows(queue_batches, fresh, block) + (0 if synchronous else waiting_rows(queue_batches, fresh))


def batches_for_all(fresh: int, block: int, actors: int) -> float:
    """The `queue_batches` with which every actor can collect a block while the learner waits for the rest of a batch."""
    return max(1.0, ceil(5 * (1 + (actors - 1) * block / fresh)) / 10)


class Holder(Protocol):
    """The part of a session that matters for credit."""

    credit: int  # rows that it may send
    waits: bool  # whether it waits in line for credit
    since: float  # when it got its credit or sent its last block, whichever was later
    pace: Pace
    slow: bool  # whether it usually takes far longer than the fleet
    late: bool  # whether its credit, one block, is late
    silent: bool  # whether it has sent nothing for very long

    @property
    def rows(self) -> int:
        """The number of trajectories of one block."""

    @property
    def open(self) -> bool:
        """Whether it may hold credit at all."""


class CreditLine:
    """Gives credit to sessions, in the order in which they asked for it.

    Args:
        batch_rows: the number of trajectories in a batch.
        queue_batches: the number of batches that may wait.
        silent_after_s: an actor without data for this many seconds may be called silent.
        synchronous: whether every trajectory must come from the newest policy. The capacity then grows only for slow actors.

    Attributes:
        outstanding: rows of credit that actors hold and that are not late.
        late: rows of late credit, at most one block per actor.
        slow: sessions that are slow.
        silent: sessions that are silent.
    """

    def __init__(
        self, *, batch_rows: int, queue_batches: float, silent_after_s: float = SILENT_AFTER_S, synchronous: bool = False
    ) -> None:
        self._silent_after_s, self._synchronous = silent_after_s, synchronous
        self._queue_batches = queue_batches
        self._batch_rows = batch_rows
        self._line: deque[Holder] = deque()
        self._largest = 1
        self._rows = 0  # the sum of one block of every session
        self._window_blocks = 1
        self._learner_waits = False
        self._lending = 0  # the number of batches for which late credit is still not counted
        self._looked_at = self._waits_since = 0.0
        self._delivered_at = 0.0  # when any session last used credit
        self.outstanding = self.late = 0
        self.slow: Sequence[Holder] = ()
        self.silent: Sequence[Holder] = ()

    @property
    def capacity(self) -> int:
        """The limit of credit and queue together, in rows, while the learner need not wait."""
        return most_rows(self._queue_batches, self._batch_rows, self._largest)

    @property
    def bound(self) -> int:
        """The limit of all credit and the queue, in rows, at any time.

        While there are slow actors, it is higher by one block per actor.
        """
        return self.capacity + (self._rows if self.late or self.slow else self._growth)

    @property
    def _growth(self) -> int:
        """How many rows come to the capacity while the learner waits: the waiting batches, at most one block per actor."""
        if self._synchronous and not (self.late or self.slow):
            return 0
        return min(waiting_rows(self._queue_batches, self._batch_rows), self._rows - self.late)

    def expect(self, batch_rows: int) -> None:
        """Change the number of fresh trajectories in a batch.

        Credit beyond the new limit stays valid; no new credit is given until it is used up.
        """
        self._batch_rows = batch_rows

    def resize(self, holders: Iterable[Holder], row_bytes: int) -> None:
        """Adapt capacity and windows to the sessions that are open."""
        rows = [holder.rows for holder in holders if holder.open]
        self._largest, self._rows = max(rows, default=1), sum(rows)
        fair = self.capacity // (SHARES * max(1, self._rows))
        affordable = MAX_WINDOW_BYTES // max(1, self._largest * row_bytes)
        self._window_blocks = max(1, min(fair, affordable, MAX_WINDOW_BLOCKS))

    def learner_waits(self, waits: bool) -> None:  # noqa: FBT001  (the name says what it is)
        """Set whether the learner waits for a batch that cannot be cut yet."""
        self._learner_waits = waits
        if waits:
            self._lending = LENDING_BATCHES

    def cut(self) -> None:
        """Count a batch that was cut."""
        self._lending = max(0, self._lending - 1)

    def room(self, queued: int) -> int:
        """Return the number of rows of credit that may be given now.

        Args:
            queued: the number of rows that wait, cut or not.
        """
        free = self.capacity - self.outstanding - queued
        if not self._lending:
            return free - self.late
        # An unroll that starts while the learner waits uses the same version as one that starts after its next batch.
        return free + (self._growth if self._learner_waits else 0)

    def want(self, holder: Holder) -> None:
        """Put a session in line, if it may have more credit than it has."""
        window = 1 if holder.late or holder.slow else self._window_blocks
        if not holder.waits and holder.open and holder.credit < window * holder.rows:
            holder.waits = True
            self._line.append(holder)

    def grant(self, queued: int, now: float) -> list[Holder]:
        """Give the free credit to the sessions in line.

        Args:
            queued: the number of rows that wait, cut or not.
            now: seconds of the monotonic clock.

        Returns:
            The sessions that got credit. The caller must tell them.
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
        """Count one block of a session's credit as late. Credit beyond one block is taken back."""
        self.outstanding -= holder.credit
        self.late += holder.rows
        holder.credit, holder.late = holder.rows, True

    def admit(self, holder: Holder, rows: int, queued: int, now: float) -> bool:
        """Whether rows that arrived may be stored: the session has credit for them, or there is room without credit."""
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
        """Find late credit and silent actors.

        Call it only when no message waits, because a waiting message may contain the missing block.

        Args:
            holders: all sessions.
            now: seconds of the monotonic clock.

        Returns:
            The sessions that hold less credit than before. The caller must tell them.
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
        """Return what is used as the fleet's pace until the first block arrives."""
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
