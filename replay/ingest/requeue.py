"""Finds blocks in the log again, after the server died or a learner lost its training progress."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from protocol.data.run_schema import RunSchema
from protocol.data.trajectory import BlockSize
from replay.log.journal import Journal
from replay.log.state import Block, CutPart, LogState, Rows
from replay.store.assembly import Part
from replay.store.queue import QueuedRows, Slice


def queued_rows_of(
    journal: Journal, schema: RunSchema, rows: Iterable[Rows], now: float, *, exempt: bool = False
) -> list[QueuedRows]:
    """Convert logged rows to queue entries.

    The data of a block is read from the log when the block is put into a batch. Rows whose data is gone are lost.

    Args:
        journal: its state has the rows.
        schema: the run's schema.
        rows: the rows, in order.
        now: seconds of the monotonic clock.
        exempt: whether a row is never dropped for its age.
    """
    found: list[QueuedRows] = []
    vanished: list[Rows] = []
    for number, start, stop in rows:
        if not journal.has(number):
            vanished.append((number, start, stop))
            continue
        block = journal.state.blocks[number]
        found.append(_queued_rows(journal, schema, (number, start, stop), block, now, exempt=exempt))
    if vanished:
        journal.record("vanished", vanished)
    return found


def _queued_rows(journal: Journal, schema: RunSchema, rows: Rows, block: Block, now: float, *, exempt: bool) -> QueuedRows:
    number, start, stop = rows
    size = BlockSize(len(block.rows), block.steps, block.finals, block.episodes)
    return QueuedRows(
        {},
        start,
        stop,
        block.version,
        now,
        schema.trajectory.nbytes(size),
        record=number,
        source=lambda: schema.trajectory.unpack(journal.read(number), size),
        exempt=exempt,
    )


def recovered_part(batch_id: int, cut: CutPart, state: LogState, now: float) -> Part:
    """Return what the log says about a part that an earlier server cut. The part has no payload.

    Args:
        batch_id: the part's number.
        cut: what the log says about it.
        state: the log's state; it has the part's blocks.
        now: seconds of the monotonic clock.
    """
    origin = [Slice({}, start, stop, state.blocks[number].version, now, record=number) for number, start, stop in cut.fresh]
    rows = sum(piece.rows for piece in origin)
    size = BlockSize(rows, state.steps, 0, 0)
    return Part(
        batch_id, np.empty(0, np.uint8), memoryview(b""), size, {}, origin, rows, cut.env_steps, record=-1, recovered=True
    )
