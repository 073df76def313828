"""A second account of a log beside it, in one small file: what the log must come to at least.

It is written with every checkpoint, every few seconds and at the end. A log whose end is damaged or gone then still says how
much was produced, up to which number its records went, and what was trained on; the difference is lost, and counted.
"""

from __future__ import annotations

from dataclasses import asdict, astuple, fields
from typing import Any

from replay.log.salvage import applied, reach, settled
from replay.log.state import CUT, QUEUED, Account, Books, Ledger

NAME = "tally.json"
KIND = "tally"
COLUMNS = tuple(field.name for field in fields(Ledger))


def tally_of(books: Books, following: int) -> dict[str, Any]:
    """JSON values.

    Args:
        books: of the log.
        following: the number of the record that follows.
    """
    return {
        "identity": books.identity,
        "next": following,
        "schema": books.schema,
        "steps": books.steps,
        "version": books.version,
        "next_batch_id": books.next_batch_id,
        "marks": list(books.marks),
        "settled": settled(books),
        "totals": asdict(books.ledger),
        "accounts": [[actor, *astuple(account)] for actor, account in books.accounts.items()],
    }


def raise_to(books: Books, tally: dict[str, Any], following: int) -> int:
    """Bring books that a log gave up to its tally.

    Args:
        books: are changed.
        tally: what `tally_of` gave.
        following: the number of the record that follows in the log.

    Returns:
        Records that are missing at the log's end.

    Raises:
        LookupError: if it is not a tally.
        TypeError: the same.
        ValueError: the same.
    """
    accounts = [(actor, Account(*rest)) for actor, *rest in tally["accounts"]]
    missing = max(0, tally["next"] - following)
    moved = (tally["next_batch_id"], tally["settled"]) != (books.next_batch_id, settled(books))
    if missing and moved:  # what waits may have been trained on
        applied(books, -1, "vanished", [[rows for place in (QUEUED, CUT) for rows in books.rows_in(place)]])
        books.cuts.clear()
    books.identity, books.steps = books.identity or tally["identity"], books.steps or tally["steps"]
    books.schema = books.schema if books.schema is not None else tally["schema"]
    books.version = max(books.version, tally["version"])
    books.next_batch_id = max(books.next_batch_id, tally["next_batch_id"])
    for actor, account in accounts:
        reach(books, actor, account.incarnation, account.rows, account.next)
        known = books.accounts[actor]
        if known.incarnation == account.incarnation:
            known.report(account.produced, account.evicted)
            known.ended |= account.ended
    books.marks.extend(mark for mark in tally["marks"] if mark not in books.marks)
    if missing:
        for name in COLUMNS:
            setattr(books.ledger, name, max(getattr(books.ledger, name), tally["totals"][name]))
    return int(missing)
