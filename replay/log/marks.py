"""The point in the log that belongs to a checkpoint: given to the learner, and compared when a learner goes on from it."""

from __future__ import annotations

from typing import Any, NamedTuple

from oatmill.errors import WireError
from protocol.wire.codec import Buffer, from_json, is_count

KEPT = 64
"""Points that the state remembers: far more than there are checkpoints."""


class Mark(NamedTuple):
    """A checkpoint's {id, cursor, digest}."""

    id: str
    cursor: int
    digest: str


def read_mark(payload: Buffer) -> Mark | None:
    """What a learner says of the checkpoint that it goes on from; None if it says nothing.

    Raises:
        WireError: `payload_json` if that is no mark.
    """
    if not memoryview(payload).nbytes:
        return None
    values = from_json(payload)
    mark = Mark(values.get("id", ""), values.get("cursor", 0), values.get("digest", ""))
    if not (isinstance(mark.id, str) and is_count(mark.cursor) and isinstance(mark.digest, str)):
        raise WireError("payload_json", "expected a checkpoint's id, cursor and digest")
    return mark


def difference(mark: Mark, identity: str, known: list[list[Any]]) -> str:
    """How a checkpoint's point differs from a log's; empty if the log has it.

    Args:
        mark: the checkpoint's.
        identity: the log's.
        known: [cursor, digest] of the points that the log remembers.
    """
    if mark.id != identity:
        return f"the learner's checkpoint belongs to the log {mark.id[:40]!r}, and this is {identity!r}"
    if [mark.cursor, mark.digest] not in known:
        return (
            f"the log does not have the point {mark.cursor} that the learner's checkpoint names: it is not the log that was "
            "there when the checkpoint was written, or lacks its end"
        )
    return ""
