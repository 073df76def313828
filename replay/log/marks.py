"""A checkpoint's point in the log.

It is sent to the learner, and compared when a learner resumes from the checkpoint.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from oatmill.errors import WireError
from protocol.wire.codec import Buffer, from_json, is_count

KEPT = 64
"""The number of points that the state remembers: far more than there are checkpoints."""


class Mark(NamedTuple):
    """The point in a checkpoint: {id, cursor, digest}."""

    id: str
    cursor: int
    digest: str


def read_mark(payload: Buffer) -> Mark | None:
    """Return the point in the checkpoint that a learner resumes from; None if it sends none.

    Raises:
        WireError: `payload_json` if it is invalid.
    """
    if not memoryview(payload).nbytes:
        return None
    values = from_json(payload)
    mark = Mark(values.get("id", ""), values.get("cursor", 0), values.get("digest", ""))
    if not (isinstance(mark.id, str) and is_count(mark.cursor) and isinstance(mark.digest, str)):
        raise WireError("payload_json", "expected a checkpoint's id, cursor and digest")
    return mark


def difference(mark: Mark, identity: str, known: list[list[Any]]) -> str:
    """Describe how a checkpoint's point differs from a log's; empty if the log has it.

    Args:
        mark: the checkpoint's point.
        identity: the log's id.
        known: [cursor, digest] of the points that the log remembers.
    """
    if mark.id != identity:
        return f"the learner's checkpoint belongs to the log {mark.id[:40]!r}, and this is {identity!r}"
    if [mark.cursor, mark.digest] not in known:
        return (
            f"the log does not have the point {mark.cursor} of the learner's checkpoint: it is not the log that was written "
            "when the checkpoint was saved, or its end is missing"
        )
    return ""
