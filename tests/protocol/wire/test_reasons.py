from __future__ import annotations

import ast
from pathlib import Path

from protocol.channels.connection_limits import MANY, MUCH
from protocol.wire.reasons import (
    BAD_MESSAGE,
    BAD_PRIORITIES,
    BAD_TRAJECTORY,
    BAD_WEIGHTS,
    CLOSED,
    REFUSALS,
    REJECTED_REASONS,
    UNAUTHORISED,
)

ROOT = Path(__file__).parents[3]
RAISED_BY = {"WireError": 0, "UnauthorisedError": 0, "RefusedError": 0, "_reject": 1, "reject": 1}
"""What gives a reason, and at which argument."""


def reasons_in_the_source() -> set[str]:
    """Return every reason code that protocol/ and replay/ use."""
    found = set()
    for path in (*ROOT.glob("protocol/**/*.py"), *ROOT.glob("replay/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                reason = node.args[RAISED_BY[name]] if name in RAISED_BY else None
                if isinstance(reason, ast.Constant):
                    found.add(str(reason.value))
    return found


def test_all_used_reasons_are_listed_and_all_listed_reasons_are_used() -> None:
    counted = {"unknown_key", MANY, MUCH}  # of connections; no message comes of them
    assert reasons_in_the_source() | counted == {*REJECTED_REASONS, *REFUSALS}


def test_no_reason_is_in_two_lists() -> None:
    lists = (BAD_MESSAGE, UNAUTHORISED, CLOSED, BAD_TRAJECTORY, BAD_PRIORITIES, BAD_WEIGHTS)
    assert len(REJECTED_REASONS) == sum(map(len, lists)) == len(set(REJECTED_REASONS))
