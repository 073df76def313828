"""Packs an actor's blocks for sending, into buffers that are used again."""

from __future__ import annotations

from protocol.data.compression import compressed
from protocol.data.trajectory import Schema, TrajectoryBlock

MAX_SPARE_BUFFERS = 16
"""The number of buffers that are kept for reuse. It is about the number of messages in flight. New
memory costs a page fault every 4 KB, and must be cleared."""


class Packer:
    """Packs blocks of one schema.

    Args:
        schema: the run's schema.
        compress: whether payloads are compressed.
    """

    def __init__(self, schema: Schema, *, compress: bool) -> None:
        self._schema, self._compress = schema, compress
        self._spare: list[memoryview] = []

    def pack(self, block: TrajectoryBlock) -> memoryview:
        """Return a block's payload."""
        packed = self._schema.pack(block, self._spare.pop() if self._spare else None)
        payload = compressed(packed) if self._compress else packed
        if payload is not packed:
            self.take_back(packed)
        return payload

    def take_back(self, payload: memoryview) -> None:
        """Use a payload's memory again, unless it is compressed: then it is read-only."""
        if len(self._spare) < MAX_SPARE_BUFFERS and not payload.readonly:
            self._spare.append(payload)
