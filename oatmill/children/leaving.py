"""How a process ends after it has run user code."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from typing import NoReturn


def leave(code: int) -> NoReturn:
    """Exit, even if the user's code has left threads that Python would wait for.

    Args:
        code: the exit code.
    """
    if not threads_left():
        sys.exit(code)
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # full, closed or missing
            stream.flush()
    os._exit(code)


def threads_left() -> bool:
    """Whether Python would wait for another thread at exit."""
    return any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread())
