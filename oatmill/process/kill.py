"""Kills processes that need not be children of this one, and waits until they have ended."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

import psutil

DIE_WITHIN_S = 5.0
POLL_S = 0.01


def kill_all(processes: Sequence[psutil.Process]) -> None:
    """Kill processes, and wait until none of them runs: a process ends a little after the signal."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    deadline = time.monotonic() + DIE_WITHIN_S
    while any(map(alive, processes)) and time.monotonic() < deadline:
        time.sleep(POLL_S)


def alive(process: psutil.Process) -> bool:
    """Whether a process runs; a zombie does not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False
