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
    parent, prctl = os.getpid(), ctypes.CDLL(None, use_errno=True).prctl
    return lambda: _request_signal(prctl, parent, number)


def die_with(parent: int, number: int) -> None:
    """Request a signal for this process when its parent ends (Linux only), or exit if it has ended.

    Args:
        parent: the parent's process id.
        number: the signal.
    """
    _request_signal(ctypes.CDLL(None).prctl if sys.platform == "linux" else None, parent, number)


def _request_signal(prctl: Callable[[int, int], int] | None, parent: int, number: int) -> None:
    if prctl is not None:
        prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(1)
