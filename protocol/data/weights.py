"""The weights of a policy as one flat buffer with a version and a digest (NumPy only)."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from oatmill.errors import WireError
from protocol.data.trajectory import Array
from protocol.wire.codec import Buffer

WireDtype = Literal["bfloat16", "float32"]
Layout = tuple[tuple[str, tuple[int, ...]], ...]
"""The names and shapes of a network's arrays, in packing order. Both sides derive it from the
network."""

DIGEST_BYTES = 16


@dataclass(frozen=True)
class Weights:
    """One policy version, packed.

    Attributes:
        version: the policy version; never reused within a run.
        buffer: the bytes of all arrays, flat and in the layout's order, as `dtype`. It is not
            changed any more.
        dtype: the type of the numbers in the buffer.
        digest: the digest of version, dtype and buffer.
    """

    version: int
    buffer: Buffer
    dtype: WireDtype
    digest: bytes

    @staticmethod
    def pack(version: int, arrays: Mapping[str, Array], dtype: WireDtype) -> Weights:
        """Pack named float arrays. bfloat16 is rounded to nearest even."""
        flat = np.concatenate([np.asarray(array, np.float32).ravel() for array in arrays.values()])
        buffer = (flat if dtype == "float32" else to_bfloat16(flat)).view(np.uint8).data
        return Weights(version, buffer, dtype, digest_of(version, dtype, buffer))

    def verify(self) -> None:
        """Raise WireError if the digest does not fit the buffer."""
        if digest_of(self.version, self.dtype, self.buffer) != self.digest:
            raise WireError("weights_digest", f"version {self.version} arrived damaged")

    def unpack(self, layout: Layout) -> dict[str, Array]:
        """Return the arrays by name, as float32.

        Raises:
            WireError: if the buffer's length does not fit the layout: the weights belong to another
                network.
        """
        raw = np.frombuffer(self.buffer, np.float32 if self.dtype == "float32" else np.uint16)
        expected = sum(int(np.prod(shape)) for _, shape in layout)
        if raw.size != expected:
            raise WireError("weights_layout", f"expected {expected} numbers for this network, got {raw.size}")
        flat = raw if self.dtype == "float32" else from_bfloat16(raw)
        arrays: dict[str, Array] = {}
        offset = 0
        for name, shape in layout:
            count = int(np.prod(shape))
            arrays[name] = flat[offset : offset + count].reshape(shape)
            offset += count
        return arrays


def layout_of(arrays: Mapping[str, Array]) -> Layout:
    """Return names and shapes in packing order."""
    return tuple((name, tuple(array.shape)) for name, array in arrays.items())


def digest_of(version: int, dtype: str, buffer: Buffer) -> bytes:
    """Return BLAKE2b over version, dtype and the buffer's CRC-32, so that a wrong version is detected, too.

    It protects against accidents; keys decide who may publish. For a million parameters, a
    cryptographic hash of every byte took 2.2 ms in the learner and in each actor; the CRC takes 0.5
    ms.
    """
    checksum = zlib.crc32(buffer).to_bytes(4, "little")
    return hashlib.blake2b(checksum, digest_size=DIGEST_BYTES, key=f"{version}/{dtype}".encode()).digest()


def to_bfloat16(values: Array) -> Array:
    """Return the upper halves of float32 numbers, rounded to nearest even, as uint16. NaN stays NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(values), np.uint32(0x7FC0), rounded).astype(np.uint16)


def from_bfloat16(bits: Array) -> Array:
    """Return the float32 numbers whose upper halves are given; exact."""
    wide = np.asarray(bits, np.uint16).astype(np.uint32)
    wide <<= np.uint32(16)  # in place, because new memory costs a page fault every 4 KB
    return wide.view(np.float32)
