"""Ends a child process when its parent ends. Standard library only."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable

PR_SET_PDEATHSIG = 1


def dies_with_parent(number: int) -> Callable[[], None] | None:
    """Return a `preexec_fn` for `subprocess.Popen`: the child gets a signal when its parent ends.

    Call it in the parent. Linux only; returns None on other systems.

    Args:
        number: the signal that the child gets.
    """
    if sys.platform != "linux":
        return None
    parent = os.getpid()
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:
            os._exit(1)

    return ask
