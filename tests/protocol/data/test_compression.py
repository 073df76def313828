from __future__ import annotations

import os
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lz4 import block as lz4

from protocol.data.compression import compressed, decompressed


@given(st.binary(max_size=300), st.integers(1, 50))
def test_any_bytes_come_back_and_never_grow(part: bytes, repeats: int) -> None:
    packed = memoryview(part * repeats)
    payload = compressed(packed)
    assert payload.nbytes <= packed.nbytes
    assert bytes(decompressed(payload, packed.nbytes)) == bytes(packed)


def test_four_equal_frames_take_little_more_than_one() -> None:
    frame = os.urandom(84 * 84)
    packed = memoryview(bytearray(4 * frame))
    assert compressed(packed).nbytes < 1.05 * len(frame)


def test_what_does_not_become_shorter_is_sent_as_it_is() -> None:
    packed = memoryview(bytearray(os.urandom(1000)))
    assert compressed(packed) is packed
    assert decompressed(packed, 1000) is packed


@given(st.binary(max_size=999))
def test_a_payload_that_is_no_block_of_the_expected_length_is_refused(payload: bytes) -> None:
    try:
        expected = lz4.decompress(payload, uncompressed_size=1000)
    except lz4.LZ4BlockError:
        expected = b""
    if len(expected) == 1000:
        assert bytes(decompressed(payload, 1000)) == expected
    else:
        with pytest.raises(
            ValueError, match=f"expected 1000 bytes, or fewer that lz4 decompresses to 1000, got {len(payload)}"
        ):
            decompressed(payload, 1000)


@pytest.mark.parametrize("change", [-1, 1])
def test_a_compressed_block_of_another_length_is_refused(change: int) -> None:
    payload = compressed(memoryview(bytes(1000 + change)))
    with pytest.raises(ValueError, match="expected 1000 bytes"):
        decompressed(payload, 1000)


def test_a_payload_that_would_become_very_large_takes_no_more_memory_than_the_expected_block() -> None:
    bomb = lz4.compress(bytes(2**26), store_size=False)
    tracemalloc.start()
    with pytest.raises(ValueError, match="expected 1000000 bytes"):
        decompressed(bomb, 1_000_000)
    assert tracemalloc.get_traced_memory()[1] < 2**21
    tracemalloc.stop()
