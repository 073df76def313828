"""A summary of the log in a small file beside it: the least that the log must contain.

It is written with every checkpoint, every few seconds and at the end. If the log's end is damaged
or missing, the tally still says how much was produced, how many records there were, and what was
trained on. The difference is counted as lost.
"""

from __future__ import annotations

from dataclasses import asdict, astuple, fields
from typing import Any

from replay.log.reader import applied, reach, settled
from replay.log.state import CUT, QUEUED, ActorAccount, Ledger, LogState

NAME = "tally.json"
KIND = "tally"
COLUMNS = tuple(field.name for field in fields(Ledger))


def tally_of(state: LogState, following: int) -> dict[str, Any]:
    """Return the tally as JSON values.

    Args:
        state: the state of the log.
        following: the number of the next record.
    """
    return {
        "identity": state.identity,
        "next": following,
        "schema": state.schema,
        "steps": state.steps,
        "version": state.version,
        "next_batch_id": state.next_batch_id,
        "marks": list(state.marks),
        "settled": settled(state),
        "totals": asdict(state.ledger),
        "accounts": [[actor, *astuple(account)] for actor, account in state.accounts.items()],
    }


def restore(state: LogState, tally: dict[str, Any]) -> None:
    """Set accounts and totals to their values when a tally was written.

    Used if the log has lost the state at its beginning: the records after it do not say what came
    before them.

    Args:
        state: the state to change. Every record before the tally was applied to it, or is missing.
        tally: the result of `tally_of`.
    """
    _raise_accounts(state, tally)
    state.ledger = Ledger(**tally["totals"])


def _raise_accounts(state: LogState, tally: dict[str, Any]) -> None:
    for actor, *rest in tally["accounts"]:
        account = ActorAccount(*rest)
        reach(state, actor, account.incarnation, account.rows, account.next)
        known = state.accounts[actor]
        if known.incarnation == account.incarnation:
            known.report(account.produced, account.evicted)
            known.ended |= account.ended


def raise_to(state: LogState, tally: dict[str, Any], following: int) -> int:
    """Raise the state of a log to at least its tally.

    Args:
        state: the state to change.
        tally: the result of `tally_of`.
        following: the number of the next record in the log.

    Returns:
        The number of records that are missing at the log's end.

    Raises:
        LookupError, TypeError, ValueError: if it is not a tally.
    """
    missing = max(0, tally["next"] - following)
    moved = (tally["next_batch_id"], tally["settled"]) != (state.next_batch_id, settled(state))
    if missing and moved:  # waiting rows may have been trained on
        applied(state, -1, "vanished", [[rows for place in (QUEUED, CUT) for rows in state.rows_in(place)]])
        state.cuts.clear()
    state.identity, state.steps = state.identity or tally["identity"], state.steps or tally["steps"]
    state.schema = state.schema if state.schema is not None else tally["schema"]
    state.version = max(state.version, tally["version"])
    state.next_batch_id = max(state.next_batch_id, tally["next_batch_id"])
    _raise_accounts(state, tally)
    state.marks.extend(mark for mark in tally["marks"] if mark not in state.marks)
    if missing:
        for name in COLUMNS:
            setattr(state.ledger, name, max(getattr(state.ledger, name), tally["totals"][name]))
    return int(missing)
