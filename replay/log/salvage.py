"""Reads a log's records into the books, also where some are missing: what they said is found out or counted as lost.

Every record says besides its own values how many parts of batches had been cut before it and how many of them were still held,
and, if it is of an actor, how far that actor was. So behind a gap it is known how many trajectories of each actor were in it.
They count as lost, even if they were trained on: nothing is trained on twice and nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgpack

from replay.log.segments import Record
from replay.log.state import CUT, QUEUED, Books, Rows

STATE = "state"
OF_ACTORS = ("reported", "ended", "forgot", "stored", "refused")
"""Records whose first value is an actor's id, and that are of its newest incarnation."""
BAD_RECORD = (LookupError, TypeError, ValueError, AttributeError)


def packed(books: Books, name: str, values: Sequence[Any]) -> bytes:
    """A record's header: its name, what tells where it belongs, its values."""
    where = [name, books.next_batch_id, len(books.cuts)]
    account = books.accounts.get(values[0]) if name in OF_ACTORS else None
    if account is not None:
        where += [account.incarnation, account.rows, account.next]
    header: bytes = msgpack.packb([where, *values])
    return header


class Reader:
    """Takes a log's records in, one after the other.

    Args:
        books: what they come to.

    Attributes:
        missing: records that are not there.
        in_step: whether the books are what the records come to; False if an old log has a gap that nothing makes up for.
    """

    def __init__(self, books: Books) -> None:
        self._books = books
        self._expected = 0
        self._begun = self._salvages = self._proven = False
        self._doubt = 0  # rows of blocks below this number may have been cut by a record that is missing
        self.missing = 0
        self.in_step = True

    def take(self, record: Record) -> None:
        """Take one record in."""
        where, *values = msgpack.unpackb(record.header, strict_map_key=False)
        old = isinstance(where, str)
        name, *place = [where] if old else where
        if record.number != self._expected:
            self._gap(record, place)
        self._expected, self._begun = record.number + 1, True
        if name == STATE:
            self._load(values)
        elif not self._salvages:
            self.in_step = self.in_step and applied(self._books, record.number, name, values)
        elif old:
            self.in_step = False  # until the next state
        else:
            self._salvage(record.number, name, place, values)

    def _load(self, values: Sequence[Any]) -> None:
        try:
            self._books.load(values[0])
        except BAD_RECORD:
            self.in_step = False
            return
        self.in_step, self._salvages, self._doubt = True, False, 0

    def _gap(self, record: Record, place: Sequence[Any]) -> None:
        """Some records before this one are missing; what was committed of them has been relied upon."""
        books = self._books
        self._salvages, self._proven = True, record.relied > self._expected
        if self._begun:  # else segments before this one have been removed, and the state makes up for them
            self.missing += record.number - self._expected
        if not place:
            return
        cut, held = place[:2]
        if self._proven and cut - held > settled(books):  # which of these were trained on is not known
            for batch_id in list(books.cuts):
                books.lose_part(batch_id)
        if cut > books.next_batch_id:
            books.next_batch_id = cut
            self._doubt = record.number if self._proven else self._doubt

    def _salvage(self, number: int, name: str, place: Sequence[int], values: list[Any]) -> None:
        if place[2:] and not self._reach(name, values[0], *place[2:]):
            return
        narrow: Callable[[list[Any]], list[Any]] = getattr(self, f"_known_{name}", lambda known: known)
        try:
            values = narrow(values)
        except BAD_RECORD:
            return
        applied(self._books, number, name, values)

    def _reach(self, name: str, actor: int, incarnation: int, rows: int, first: int) -> bool:
        """Bring an actor's account to where it was before a record; False if the record does not count."""
        account = self._books.accounts.get(actor)
        ahead = first - (account.next if account is not None and account.incarnation == incarnation else 0)
        if ahead > 0 and not self._proven:
            return False  # nobody was told of it: the actor sends it again
        reach(self._books, actor, incarnation, rows, first)
        account = self._books.accounts[actor]
        return account.incarnation == incarnation and not (name in {"stored", "refused"} and account.next > first)

    # ---------------------------------------------------------------------------------- records as far as they are known

    def _rows(self, rows: Sequence[Rows]) -> list[Rows]:
        return [(number, start, stop) for number, start, stop in rows if number in self._books.blocks]

    def _known_opened(self, values: list[Any]) -> list[Any]:
        account = self._books.accounts.get(values[0])
        if account is not None and account.incarnation >= values[1]:
            raise LookupError("it is open already")
        return values

    def _known_dropped(self, values: list[Any]) -> list[Any]:
        return [self._rows(values[0])]

    _known_vanished = _known_dropped

    def _known_cut(self, values: list[Any]) -> list[Any]:
        """Rows before the first one of a cut were taken by cuts that are missing: batches are cut in order."""
        parts = [[batch_id, rank, env_steps, self._rows(fresh)] for batch_id, rank, env_steps, fresh in values[0]]
        rows = [tuple(entry) for *_, fresh in parts for entry in fresh]
        if self._doubt and rows:
            self._lose(min(rows)[:2])
            self._doubt = 0
        return [parts]

    def _lose(self, before: tuple[int, ...]) -> None:
        """Count rows that wait, of blocks from before the gap, as lost up to a point."""
        lost = [
            (number, start, min(stop, before[1]) if number == before[0] else stop)
            for number, start, stop in self._books.rows_in(QUEUED)
            if (number, start) < before and number < self._doubt
        ]
        applied(self._books, -1, "vanished", [lost])

    def _known_returned(self, values: list[Any]) -> list[Any]:
        return [[batch_id for batch_id in values[0] if batch_id in self._books.cuts]]

    def _known_trained(self, values: list[Any]) -> list[Any]:
        version, parts = values
        return [version, [entry for entry in parts if entry[0] in self._books.cuts]]

    def end(self) -> None:
        """No record is left."""
        if self._doubt:
            self._lose((self._doubt,))
        books = self._books
        if books.schema is None:  # without it no block can be read
            applied(books, -1, "vanished", [[rows for place in (QUEUED, CUT) for rows in books.rows_in(place)]])
            books.cuts.clear()
        for part in books.cuts.values():
            part.fresh = self._rows(part.fresh)


def settled(books: Books) -> int:
    """Parts that were cut and are held by nobody any more."""
    return books.next_batch_id - len(books.cuts)


def reach(books: Books, actor: int, incarnation: int, rows: int, first: int) -> None:
    """Bring an actor's account to at least this incarnation and, within it, to this sequence number; what lies between is lost.

    Args:
        books: are changed.
        actor: its id.
        incarnation: is opened if a lower one is known.
        rows: of each of its blocks.
        first: the sequence number.
    """
    account = books.accounts.get(actor)
    if account is None or account.incarnation < incarnation:
        books.apply(-1, "opened", (actor, incarnation, rows))
    account = books.accounts[actor]
    if account.incarnation == incarnation and account.next < first:
        books.ledger.accepted += first - account.next
        account.next = first
        account.report(0, 0)


def applied(books: Books, number: int, name: str, values: Sequence[Any]) -> bool:
    """Whether a record could be applied to what is known."""
    try:
        books.apply(number, name, values)
    except BAD_RECORD:
        return False
    return True


def lost_in(books: Books) -> int:
    """Trajectories that were acknowledged and are in no other column of the ledger."""
    ledger = books.ledger
    standing = sum(stop - start for place in (QUEUED, CUT) for _, start, stop in books.rows_in(place))
    return ledger.accepted - ledger.trained - ledger.rolled_back - ledger.stale - ledger.rejected - standing
