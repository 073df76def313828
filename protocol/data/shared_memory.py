"""Memory that two processes of one machine see: a batch is packed there, and its learner reads it without a socket.

The memory lies in no folder (a memfd): it goes with the last process that has it, however that one ended. A reader finds it
through /proc, which the kernel allows to processes of the same user, and looks whether it is the memory that was meant: in
another container the same number may be another process. It maps it privately, so what it writes there is its own.
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
"""No process may shorten it: a process that reads beyond its end is killed."""
POPULATE_READ = 22
"""MADV_POPULATE_READ of Linux 5.14: map all pages at once, in place of a fault every 64 KB."""
_PLACE = re.compile(r"[0-9]{1,10}/[0-9]{1,10}/[0-9]{1,20}/[0-9]{1,20}")


@dataclass(frozen=True)
class SharedMemory:
    """What one process makes and others may read.

    Attributes:
        array: the memory, [capacity] uint8; it is given back when nothing refers to it any more.
        place: where another process finds it: process/descriptor/device/inode.
    """

    array: Array
    place: str

    @staticmethod
    def make(nbytes: int) -> SharedMemory | None:
        """Fresh memory; None where the system has none to share."""
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
    """Another process's memory, from its beginning; what is written to it stays here.

    Raises:
        OSError: if it is not there, may not be read, or is not what was meant.
    """
    if _PLACE.fullmatch(place) is None:
        raise OSError(errno.EINVAL, "not the place of shared memory")
    process, number, device, inode = map(int, place.split("/"))
    descriptor = os.open(f"/proc/{process}/fd/{number}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if (status.st_dev, status.st_ino) != (device, inode) or status.st_size < nbytes:
            raise OSError(errno.ESTALE, "another process's memory lies there")
        memory = mmap.mmap(descriptor, nbytes, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
    finally:
        os.close(descriptor)
    with suppress(OSError):  # an older system maps each page when it is looked at
        memory.madvise(POPULATE_READ)
    return memory
