"""Ends a process that uses too much memory, with a message, before the system kills a process.

RLIMIT_AS is not suitable: CUDA and shared memory reserve far more addresses than memory. With
RLIMIT_DATA, libzmq aborts without a message.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import threading
from pathlib import Path

from oatmill.process.exit_codes import OUT_OF_MEMORY

LOOK_EVERY_S = 0.1
SHARE = 0.8
"""The default limit, as a fraction of the memory of the machine or container."""
PAGE_BYTES = resource.getpagesize()
STATM, CGROUPS = Path("/proc/self/statm"), Path("/sys/fs/cgroup")


class MemoryLimit:
    """Ends this process when its own memory exceeds a limit. Shared memory and files do not count.

    Args:
        role: the process's name in the message.
        limit_bytes: the limit in bytes; None for `default_limit`.
        setting: the setting that the message names.
    """

    def __init__(self, role: str, limit_bytes: int | None, *, setting: str) -> None:
        self._role, self._setting = role, setting
        self._limit = default_limit() if limit_bytes is None else limit_bytes
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_EVERY_S):
            held = own_memory()
            if held > self._limit:
                line = f"uses {held / 2**20:.0f} MiB of memory, and {self._setting} allows {self._limit / 2**20:.0f} MiB"
                with contextlib.suppress(OSError, ValueError):
                    sys.stderr.write(f"{self._role}: {line}; this process ends\n")
                    sys.stderr.flush()
                os._exit(OUT_OF_MEMORY)


def own_memory() -> int:
    """Return the bytes of memory that only this process uses; 0 on systems other than Linux."""
    resident, shared = _resident_and_shared()
    return resident - shared


def resident_memory() -> int:
    """Return the bytes of memory that this process uses; 0 on systems other than Linux."""
    return _resident_and_shared()[0]


def _resident_and_shared() -> tuple[int, int]:
    with contextlib.suppress(OSError, ValueError, IndexError):
        _, resident, shared, *_ = STATM.read_bytes().split()
        return int(resident) * PAGE_BYTES, int(shared) * PAGE_BYTES
    return 0, 0


def default_limit() -> int:
    """Return SHARE of the memory of this machine, or of this container if that is less."""
    memory = os.sysconf("SC_PHYS_PAGES") * PAGE_BYTES
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # cgroup 2, cgroup 1
        with contextlib.suppress(OSError, ValueError):  # `max` is no number
            memory = min(memory, int((CGROUPS / name).read_text()))
    return int(SHARE * memory)
