"""Inside a process that runs a user's code for a command: `runner.apart` starts it, and reads what it says."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from oatmill.children.leaving import leave
from oatmill.children.places import place_of
from oatmill.errors import OatmillError, UserError, one_line
from oatmill.process.entry import configure_logging

PR_SET_PDEATHSIG = 1

log = logging.getLogger("oatmill.apart")


class Answer:
    """What the work came to, told line by line over a pipe of its own: standard output is the user's.

    Args:
        descriptor: the pipe's end to write to.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._given = False

    def result(self, value: Any) -> None:
        """The work is done; what follows only takes it down again.

        Args:
            value: plain values for JSON.
        """
        self._given = True
        self._say({"result": value})

    def failed(self, error: BaseException) -> None:
        """The work has failed. After an answer it is a note: taking down what was built has failed."""
        log.debug("the work ends because of", exc_info=error)
        if self._given:
            self._say({"note": in_words(error)})
        elif isinstance(error, OatmillError):
            self._say({"error": str(error), "bad_input": isinstance(error, UserError)})
        else:
            self._say({"ended": in_words(error)})
        self._given = True

    def closed(self) -> None:
        """All that was built is taken down; only Python's own end is left."""
        self._say({"closed": True})

    def _say(self, record: dict[str, Any]) -> None:
        line = json.dumps(record).encode() + b"\n"
        while line:
            line = line[os.write(self._descriptor, line) :]


def in_words(error: BaseException) -> str:
    """What a user's code did, as the predicate of a sentence."""
    if not isinstance(error, SystemExit):
        return f"raised {one_line(error)}"
    place = place_of(error)
    return f"called sys.exit({'' if error.code is None else repr(error.code)}){f' ({place})' if place else ''}"


def serve(work: Callable[[Any, Answer], None]) -> None:
    """Do the work that standard input asks for, say what came of it, and end.

    What the user's code prints goes to standard error. A crash, and a hang that outlasts the limit, write down where every
    thread stands, on the same pipe as the answer.

    Args:
        work: is given the request's values, and the answer to be filled in.
    """
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    _die_with(parent)
    os.set_inheritable(descriptor, False)  # noqa: FBT003  (the library's own signature)
    os.dup2(2, 1)
    request = json.load(sys.stdin)
    configure_logging(request["log_level"])
    faulthandler.enable(file=descriptor)
    if request["limit_s"] is not None:
        faulthandler.dump_traceback_later(request["limit_s"], exit=True, file=descriptor)
    answer = Answer(descriptor)
    try:
        work(request["values"], answer)
    except BaseException as error:  # SystemExit too: this process is here so that nothing of the user's goes further
        answer.failed(error)
    answer.closed()
    faulthandler.cancel_dump_traceback_later()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    leave(0)


def _die_with(parent: int) -> None:
    """Ask the kernel to end this process when its parent is gone (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
