"""How a child process ends with its parent. Standard library only."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable

PR_SET_PDEATHSIG = 1


def dies_with_parent(number: int) -> Callable[[], None] | None:
    """What a child does before it becomes another program: ask for a signal when its parent is gone (Linux only).

    Call it in the parent, and give the result to `subprocess.Popen(preexec_fn=...)`.

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
