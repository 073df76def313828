"""How much there is to learn from each trajectory of a batch, as the learner tells ingest: a float32 for each."""

from __future__ import annotations

import numpy as np

from oatmill.errors import WireError
from protocol.data.trajectory import Array
from protocol.wire.codec import Buffer

DTYPE = np.dtype("<f4")


def pack_priorities(priorities: Array) -> bytes:
    """The payload of CONSUMED.

    Args:
        priorities: `[B]`, finite and 0 or more, in the order of the batch's rows.
    """
    return priorities.astype(DTYPE).tobytes()


def priorities_bytes(rows: int) -> int:
    """How long that payload is."""
    return rows * DTYPE.itemsize


def read_priorities(payload: Buffer, rows: int) -> Array:
    """What `pack_priorities` gave, from a peer that is not trusted; a copy, as float64.

    Raises:
        WireError: `priorities` if there is not one number for each row, or one of them is negative or not finite.
    """
    length = memoryview(payload).nbytes
    if length != priorities_bytes(rows):
        raise WireError("priorities", f"expected {priorities_bytes(rows)} bytes for {rows} trajectories, got {length}")
    found = np.frombuffer(payload, DTYPE).astype(np.float64)
    bad = ~((found >= 0) & np.isfinite(found))
    if bad.any():
        raise WireError("priorities", f"expected finite numbers from 0 on, got {found[bad][0]:g}")
    return found
