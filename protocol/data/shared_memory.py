"""Memory that two processes of one machine share.

A batch is packed into it, and the learner reads it without a socket.

The memory has no file (it is a memfd): it is freed when the last process that has it ends, however
it ends. A reader opens it through /proc, which the kernel allows to processes of the same user, and
checks that it is the right memory: in another container, the same number may be another process. It
maps the memory privately, so what it writes stays its own.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import re
import weakref
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from protocol.data.trajectory import Array

SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL if hasattr(fcntl, "F_SEAL_SEAL") else 0
"""No process may shorten the memory: a process that reads beyond its end would be killed."""
POPULATE_READ = 22
"""MADV_POPULATE_READ of Linux 5.14 maps all pages at once. Otherwise there is a page fault every 64
KB."""
_PLACE = re.compile(r"[0-9]{1,10}/[0-9]{1,10}/[0-9]{1,20}/[0-9]{1,20}")


@dataclass(frozen=True)
class SharedMemory:
    """Memory that one process creates and others may read.

    Attributes:
        array: the memory, [capacity] uint8; freed when nothing refers to it any more.
        place: where another process finds it: process/descriptor/device/inode.
    """

    array: Array
    place: str

    @staticmethod
    def make(nbytes: int) -> SharedMemory | None:
        """Create memory; None if the system has no memory to share."""
        if not hasattr(os, "memfd_create") or not SEALS:
            return None
        try:
            descriptor = os.memfd_create("oatmill-batch", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError:
            return None
        try:
            os.ftruncate(descriptor, nbytes)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
            array = np.frombuffer(mmap.mmap(descriptor, nbytes), np.uint8)
        except OSError:
            os.close(descriptor)
            return None
        weakref.finalize(array, os.close, descriptor)
        status = os.fstat(descriptor)
        return SharedMemory(array, f"{os.getpid()}/{descriptor}/{status.st_dev}/{status.st_ino}")


def open_shared(place: str, nbytes: int) -> mmap.mmap:
    """Map another process's memory. What is written to it here is not seen by that process.

    Raises:
        OSError: if it is not there, may not be read, or is other memory.
    """
    if _PLACE.fullmatch(place) is None:
        raise OSError(errno.EINVAL, "expected the place of shared memory")
    process, number, device, inode = map(int, place.split("/"))
    descriptor = os.open(f"/proc/{process}/fd/{number}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if (status.st_dev, status.st_ino) != (device, inode) or status.st_size < nbytes:
            raise OSError(errno.ESTALE, "the memory belongs to another process")
        memory = mmap.mmap(descriptor, nbytes, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
    finally:
        os.close(descriptor)
    with suppress(OSError):  # an older system maps each page when it is read
        memory.madvise(POPULATE_READ)
    return memory
