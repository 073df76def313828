"""Memory that is used again once nobody refers to it.

Fresh memory costs a page fault every 4 KB: for a million numbers more than packing, checking and unpacking them together.
"""

from __future__ import annotations

import sys

import numpy as np

from protocol.data.trajectory import Array

UNUSED = 3
"""References to a buffer that nobody has: the list's, the loop's and the call's that counts them."""


class SpareMemory:
    """Buffers of one length, which are lent to whoever refers to them.

    Args:
        most: buffers that are kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._buffers: list[Array] = []

    def take(self, nbytes: int) -> Array:
        """A buffer of bytes, `[nbytes]` uint8, that nothing else refers to, be it an array, a memoryview or a tensor of it."""
        for buffer in self._buffers:
            if buffer.nbytes == nbytes and sys.getrefcount(buffer) == UNUSED:
                return buffer
        self._buffers.append(np.empty(nbytes, np.uint8))
        del self._buffers[: -self._most]
        return self._buffers[-1]
