"""Packed blocks as they are sent: compressed with lz4, or as they are if that is not shorter.

The receiver knows a block's length from the schema, so the length of a payload says which of the two it is, and a payload
never grows beyond that length.
"""

from __future__ import annotations

from lz4 import block

Buffer = bytes | bytearray | memoryview

LARGEST_BYTES = 0x7E000000
"""The most that lz4 compresses at once; a larger block is sent as it is."""


def compressed(packed: memoryview) -> memoryview:
    """Return a packed block compressed, or the block itself if that is not shorter."""
    if packed.nbytes > LARGEST_BYTES:
        return packed
    shorter = memoryview(block.compress(packed, store_size=False))
    return shorter if shorter.nbytes < packed.nbytes else packed


def decompressed(payload: Buffer, nbytes: int) -> Buffer:
    """Return the packed block in a payload.

    Args:
        payload: the result of `compressed`, from a sender that may be hostile.
        nbytes: the length that the schema requires of the packed block.

    Raises:
        ValueError: if it is not a block of that length.
    """
    given = memoryview(payload).nbytes
    if given == nbytes:
        return payload
    if given < nbytes <= LARGEST_BYTES:
        try:
            packed: bytes = block.decompress(payload, uncompressed_size=nbytes)
        except block.LZ4BlockError:
            packed = b""
        if len(packed) == nbytes:
            return packed
    raise ValueError(f"expected {nbytes} bytes, or fewer that lz4 decompresses to {nbytes}, got {given}")
