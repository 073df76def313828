"""Changes a process's clocks for `oatmill chaos --fault clock`; Python imports it at start.

The time of day is shifted by the process's entry in the file that OATMILL_CHAOS_CLOCKS names. The
monotonic clock starts at a different value in each process, as it does on different machines. The
machine's clocks are not changed.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from pathlib import Path
from random import Random

BEGAN_S = 1e6


def skew(path: str, pid: int) -> None:
    """Replace this process's clocks."""
    with Path(path).open("rb") as file:
        offsets = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    place = 8 * (pid % (len(offsets) // 8))
    began = Random(pid).uniform(0.0, BEGAN_S)
    time_of_day, time_of_day_ns, monotonic, monotonic_ns = time.time, time.time_ns, time.monotonic, time.monotonic_ns

    def offset() -> float:
        seconds: float = struct.unpack_from("d", offsets, place)[0]
        return seconds

    time.time = lambda: time_of_day() + offset()
    time.time_ns = lambda: time_of_day_ns() + int(1e9 * offset())
    time.monotonic = lambda: monotonic() + began
    time.monotonic_ns = lambda: monotonic_ns() + int(1e9 * began)


if "OATMILL_CHAOS_CLOCKS" in os.environ:
    skew(os.environ["OATMILL_CHAOS_CLOCKS"], os.getpid())
