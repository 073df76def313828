"""The priorities of a batch's trajectories, which the learner sends to ingest as float32 numbers."""

from __future__ import annotations

import numpy as np

from oatmill.errors import WireError
from protocol.data.trajectory import Array
from protocol.wire.codec import Buffer

DTYPE = np.dtype("<f4")


def pack_priorities(priorities: Array) -> bytes:
    """Return the payload of CONSUMED.

    Args:
        priorities: `[B]`, finite and at least 0, in the order of the batch's rows.
    """
    return priorities.astype(DTYPE).tobytes()


def priorities_bytes(rows: int) -> int:
    """Return the length of that payload in bytes."""
    return rows * DTYPE.itemsize


def read_priorities(payload: Buffer, rows: int) -> Array:
    """Read the result of `pack_priorities` from a peer that is not trusted. Returns a copy as float64.

    Raises:
        WireError: `priorities` if there is not one number for each row, or a number is negative or
            not finite.
    """
    length = memoryview(payload).nbytes
    if length != priorities_bytes(rows):
        raise WireError("priorities", f"expected {priorities_bytes(rows)} bytes for {rows} trajectories, got {length}")
    found = np.frombuffer(payload, DTYPE).astype(np.float64)
    bad = ~((found >= 0) & np.isfinite(found))
    if bad.any():
        raise WireError("priorities", f"expected finite numbers of at least 0, got {found[bad][0]:g}")
    return found
