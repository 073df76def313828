"""How a process ends after it has run user code, or native code that has threads of its own."""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

from oatmill.user_code import place_in_frames


def leave(code: int) -> NoReturn:
    """Exit, even if the user's code has left threads that Python would wait for.

    Args:
        code: the exit code.
    """
    if not threads_left():
        sys.exit(code)
    leave_at_once(code)


def leave_at_once(code: int) -> NoReturn:
    """Exit without Python's clean-up, after what was written has been flushed.

    Every process that has met other ranks ends this way. gloo's threads are still running after
    `destroy_process_group`. If one of them releases a tensor while Python shuts down, it cannot get
    Python's lock, and the process is aborted (SIGABRT) although all of its work is done.

    Args:
        code: the exit code.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # full, closed or missing
            stream.flush()
    os._exit(code)


def tell_of_exits(tell: Callable[[str], object], *, code: int | None = None) -> None:
    """Have the user's code that ends this process by `os._exit` named before it does.

    Args:
        tell: called with what the code did, as the predicate of a sentence.
        code: the exit code to end with in the place of theirs; None keeps theirs.
    """
    own, end = os.getpid(), os._exit

    def exit_at_once(status: int) -> NoReturn:
        place = place_in_frames(inspect.currentframe())
        if place and os.getpid() == own:  # a copy that was forked ends this way, as it should
            tell(f"called os._exit({status}) ({place})")
            status = status if code is None else code
        end(status)

    os._exit = exit_at_once


def threads_left() -> bool:
    """Whether Python would wait for another thread at exit."""
    return any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread())
