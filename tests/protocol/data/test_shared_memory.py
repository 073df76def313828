from __future__ import annotations

import gc
import os

import pytest

from protocol.data.shared_memory import SharedMemory, open_shared


def made(nbytes: int = 8192) -> SharedMemory:
    memory = SharedMemory.make(nbytes)
    assert memory is not None
    memory.array[:] = 7
    return memory


def descriptor_of(memory: SharedMemory) -> int:
    return int(memory.place.split("/")[1])


def test_a_reader_sees_the_content_and_its_own_changes_stay_private() -> None:
    memory = made()
    seen = open_shared(memory.place, 8000)
    assert bytes(seen) == b"\7" * 8000
    seen[0] = 1
    assert memory.array[0] == 7
    assert open_shared(memory.place, 8000)[0] == 7


def test_other_memory_with_the_same_descriptor_is_rejected() -> None:
    memory, other = made(), made()
    ours, theirs = memory.place.split("/"), other.place.split("/")
    with pytest.raises(OSError, match="belongs to another process"):
        open_shared("/".join([*theirs[:2], *ours[2:]]), 8000)


@pytest.mark.parametrize("place", ["", "1/2/3", "../../etc/passwd", "1/2/3/4/5", "1/2/3/x", "-1/2/3/4", "1/2/3/4\n"])
def test_an_invalid_place_is_rejected(place: str) -> None:
    with pytest.raises(OSError, match="the place of shared memory"):
        open_shared(place, 1)


def test_memory_that_is_too_short_is_rejected() -> None:
    memory = made(8192)
    with pytest.raises(OSError, match="belongs to another process"):
        open_shared(memory.place, 8193)


def test_nobody_can_make_it_shorter() -> None:
    memory = made()
    with pytest.raises(PermissionError):
        os.ftruncate(descriptor_of(memory), 1)


def test_memory_is_freed_with_its_last_reference() -> None:
    memory = made()
    descriptor, view = descriptor_of(memory), memory.array[10:20]
    del memory
    gc.collect()
    assert os.fstat(descriptor).st_size == 8192
    del view
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
