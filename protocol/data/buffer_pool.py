"""Buffers that are reused once nothing refers to them.

New memory costs a page fault every 4 KB. For a million numbers, that takes longer than packing,
checking and unpacking them.
"""

from __future__ import annotations

import sys

import numpy as np

from protocol.data.trajectory import Array

UNUSED = 3
"""References to an unused buffer: from the list, from the loop, and from the call that counts them."""


class BufferPool:
    """Buffers of one length.

    Args:
        most: the largest number of buffers that are kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._buffers: list[Array] = []

    def take(self, nbytes: int) -> Array:
        """Return a buffer `[nbytes]` of uint8 to which no array, memoryview or tensor refers."""
        for buffer in self._buffers:
            if buffer.nbytes == nbytes and sys.getrefcount(buffer) == UNUSED:
                return buffer
        self._buffers.append(np.empty(nbytes, np.uint8))
        del self._buffers[: -self._most]
        return self._buffers[-1]
