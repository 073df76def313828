"""Reads a log's records into the state. If some are missing, their content is inferred or counted as lost.

In addition to its own values, every record has the number of batch parts that had been cut before
it, and how many of them were still held. A record of an actor also has the actor's next sequence
number. So after a gap, it is known how many trajectories of each actor were in it. They count as
lost even if they were trained on: nothing is trained on twice, and nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgpack

from replay.log.segments import LogRecord
from replay.log.state import CUT, QUEUED, LogState, Rows

STATE = "state"
OF_ACTORS = ("reported", "ended", "forgot", "stored", "refused")
"""Records whose first value is an actor's id, and which concern its newest incarnation."""
BAD_RECORD = (LookupError, TypeError, ValueError, AttributeError)


def packed(state: LogState, name: str, values: Sequence[Any]) -> bytes:
    """Return the header of a record: its name, its context, its values."""
    where = [name, state.next_batch_id, len(state.cuts)]
    account = state.accounts.get(values[0]) if name in OF_ACTORS else None
    if account is not None:
        where += [account.incarnation, account.rows, account.next]
    header: bytes = msgpack.packb([where, *values])
    return header


class LogReader:
    """Applies a log's records, one after the other.

    Args:
        state: gets the records.
        tally_at: the number of the next record when the log's tally was written; None without a
            tally.
        restore: sets the state's totals to those of the tally.

    Attributes:
        missing: the number of missing records.
        in_step: whether the state follows from the records; False if a log in the old format has a
            gap.
    """

    def __init__(self, state: LogState, *, tally_at: int | None = None, restore: Callable[[], None] = lambda: None) -> None:
        self._state, self._tally_at, self._restore = state, tally_at, restore
        self._expected = 0
        self._begun = self._salvages = self._proven = False
        self._doubt = 0  # a missing record may have cut rows of blocks below this number
        self._headless = False  # whether the state at the log's beginning is damaged: the totals before it are unknown
        self.missing = 0
        self.in_step = True

    def take(self, record: LogRecord) -> None:
        """Apply one record."""
        where, *values = msgpack.unpackb(record.header, strict_map_key=False)
        old = isinstance(where, str)
        name, *place = [where] if old else where
        if record.number != self._expected:
            self._gap(record, place)
        if not self._begun and name != STATE and record.number > 0:
            self._headless = True
        if self._headless and self._tally_at is not None and record.number >= self._tally_at:
            self._restore()
            self._tally_at = None
        self._expected, self._begun = record.number + 1, True
        if name == STATE:
            self._load(values)
        elif not self._salvages:
            self.in_step = self.in_step and applied(self._state, record.number, name, values)
        elif old:
            self.in_step = False  # until the next state
        else:
            self._salvage(record.number, name, place, values)

    def _load(self, values: Sequence[Any]) -> None:
        try:
            self._state.load(values[0])
        except BAD_RECORD:
            self.in_step = False
            return
        self.in_step, self._salvages, self._doubt, self._headless = True, False, 0, False

    def _gap(self, record: LogRecord, place: Sequence[Any]) -> None:
        """Handle missing records before this one.

        Other processes have relied on those that were committed.
        """
        state = self._state
        self._salvages, self._proven = True, record.relied > self._expected
        if self._begun:  # otherwise earlier segments were removed, and the state contains what they led to
            self.missing += record.number - self._expected
        if not place:
            return
        cut, held = place[:2]
        if self._proven and cut - held > settled(state):  # some were trained on, but it is not known which
            for batch_id in list(state.cuts):
                state.lose_part(batch_id)
        if cut > state.next_batch_id:
            state.next_batch_id = cut
            self._doubt = record.number if self._proven else self._doubt

    def _salvage(self, number: int, name: str, place: Sequence[int], values: list[Any]) -> None:
        if place[2:] and not self._reach(name, values[0], *place[2:]):
            return
        narrow: Callable[[list[Any]], list[Any]] = getattr(self, f"_known_{name}", lambda known: known)
        try:
            values = narrow(values)
        except BAD_RECORD:
            return
        applied(self._state, number, name, values)

    def _reach(self, name: str, actor: int, incarnation: int, rows: int, first: int) -> bool:
        """Bring an actor's account to its value before a record; False if the record does not count."""
        account = self._state.accounts.get(actor)
        ahead = first - (account.next if account is not None and account.incarnation == incarnation else 0)
        if ahead > 0 and not self._proven:
            return False  # it was never acknowledged: the actor sends it again
        reach(self._state, actor, incarnation, rows, first)
        account = self._state.accounts[actor]
        return account.incarnation == incarnation and not (name in {"stored", "refused"} and account.next > first)

    # ---------------------------------------------------------------------------------- records as far as they are known

    def _rows(self, rows: Sequence[Rows]) -> list[Rows]:
        return [(number, start, stop) for number, start, stop in rows if number in self._state.blocks]

    def _known_opened(self, values: list[Any]) -> list[Any]:
        account = self._state.accounts.get(values[0])
        if account is not None and account.incarnation >= values[1]:
            raise LookupError("it is open already")
        return values

    def _known_dropped(self, values: list[Any]) -> list[Any]:
        return [self._rows(values[0])]

    _known_vanished = _known_dropped

    def _known_cut(self, values: list[Any]) -> list[Any]:
        """Return the rows that are known.

        Missing cuts took all rows before the first one: batches are cut in order.
        """
        parts = [[batch_id, rank, env_steps, self._rows(fresh)] for batch_id, rank, env_steps, fresh in values[0]]
        rows = [tuple(entry) for *_, fresh in parts for entry in fresh]
        if self._doubt and rows:
            self._lose(min(rows)[:2])
            self._doubt = 0
        return [parts]

    def _lose(self, before: tuple[int, ...]) -> None:
        """Count waiting rows as lost, up to a point, if their block is from before the gap."""
        lost = [
            (number, start, min(stop, before[1]) if number == before[0] else stop)
            for number, start, stop in self._state.rows_in(QUEUED)
            if (number, start) < before and number < self._doubt
        ]
        applied(self._state, -1, "vanished", [lost])

    def _known_returned(self, values: list[Any]) -> list[Any]:
        return [[batch_id for batch_id in values[0] if batch_id in self._state.cuts]]

    def _known_trained(self, values: list[Any]) -> list[Any]:
        version, parts = values
        return [version, [entry for entry in parts if entry[0] in self._state.cuts]]

    def end(self) -> None:
        """Finish after the last record."""
        if self._headless and self._tally_at is not None:
            self._restore()
        if self._doubt:
            self._lose((self._doubt,))
        state = self._state
        if state.schema is None:  # without it no block can be read
            applied(state, -1, "vanished", [[rows for place in (QUEUED, CUT) for rows in state.rows_in(place)]])
            state.cuts.clear()
        for part in state.cuts.values():
            part.fresh = self._rows(part.fresh)


def settled(state: LogState) -> int:
    """Return the number of parts that were cut and are no longer held."""
    return state.next_batch_id - len(state.cuts)


def reach(state: LogState, actor: int, incarnation: int, rows: int, first: int) -> None:
    """Bring an actor's account to at least an incarnation and a sequence number.

    What lies between is lost.

    Args:
        state: the state to change.
        actor: the actor's id.
        incarnation: the incarnation; opened if only a lower one is known.
        rows: the number of trajectories in each of its blocks.
        first: the sequence number.
    """
    account = state.accounts.get(actor)
    if account is None or account.incarnation < incarnation:
        state.apply(-1, "opened", (actor, incarnation, rows))
    account = state.accounts[actor]
    if account.incarnation == incarnation and account.next < first:
        state.ledger.accepted += first - account.next
        account.next = first
        account.report(0, 0)


def applied(state: LogState, number: int, name: str, values: Sequence[Any]) -> bool:
    """Apply a record; False if it does not fit the state."""
    try:
        state.apply(number, name, values)
    except BAD_RECORD:
        return False
    return True


def lost_in(state: LogState) -> int:
    """Return the number of trajectories that were acknowledged and are in no other column of the ledger."""
    ledger = state.ledger
    standing = sum(stop - start for place in (QUEUED, CUT) for _, start, stop in state.rows_in(place))
    return ledger.accepted - ledger.trained - ledger.rolled_back - ledger.stale - ledger.rejected - standing
