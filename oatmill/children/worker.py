"""Runs user code in a separate process. `runner.user_code_process` starts the process and reads its answer."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from oatmill.children.copies import Copies
from oatmill.children.leaving import leave, tell_of_exits
from oatmill.children.parent import die_with
from oatmill.errors import OatmillError, UserCodeError, UserError, one_line
from oatmill.process.entry import configure_logging
from oatmill.user_code import place_of

log = logging.getLogger("oatmill.worker")


class Answer:
    """The result of the work, sent as lines over a separate pipe.

    Standard output belongs to the user's code.

    Args:
        descriptor: the file descriptor of the pipe's writing end.
        copies: ends copies of this process, which would answer, too.
    """

    def __init__(self, descriptor: int, copies: Copies) -> None:
        self._descriptor, self._copies = descriptor, copies
        self._given = False

    def result(self, value: Any) -> None:
        """Report that the work is done; only cleaning up is left.

        Args:
            value: plain values that JSON can hold.

        Raises:
            UserError: if the user's code has forked this process, and the copy has come back.
        """
        try:
            self._copies.check()
        except UserCodeError as error:
            raise UserError(str(error)) from None
        self._given = True
        self._say({"result": value})

    def failed(self, error: BaseException) -> None:
        """Report that the work has failed. After a result, this is only a note: cleaning up has failed."""
        log.debug("the work ends because of", exc_info=error)
        if self._given:
            self._say({"note": in_words(error)})
        elif isinstance(error, OatmillError):
            self._say({"error": str(error), "bad_input": isinstance(error, UserError)})
        else:
            self._say({"ended": in_words(error)})
        self._given = True

    def closed(self) -> None:
        """Report that everything is cleaned up; only Python's own shutdown is left."""
        self._say({"closed": True})

    def _say(self, record: dict[str, Any]) -> None:
        line = json.dumps(record).encode() + b"\n"
        while line:
            line = line[os.write(self._descriptor, line) :]


def in_words(error: BaseException) -> str:
    """Describe what the user's code did, as the predicate of a sentence."""
    if not isinstance(error, SystemExit):
        return f"raised {one_line(error)}"
    place = place_of(error)
    return f"called sys.exit({'' if error.code is None else repr(error.code)}){f' ({place})' if place else ''}"


def serve(work: Callable[[Any, Answer], None]) -> None:
    """Read a request from standard input, do the work, send the result and exit.

    Output of the user's code goes to standard error. After a crash, or a hang longer than the
    limit, the stack of every thread is written to the same pipe as the answer.

    Args:
        work: function that takes the request's values and an Answer.
    """
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    die_with(parent, signal.SIGKILL)
    os.set_inheritable(descriptor, False)  # noqa: FBT003  (the library's own signature)
    os.dup2(2, 1)
    request = json.load(sys.stdin)
    configure_logging(request["log_level"])
    faulthandler.enable(file=descriptor)
    if request["until"] is not None:  # counted from the start of this process, which may have taken long
        left = request["until"] - time.clock_gettime(time.CLOCK_MONOTONIC)
        faulthandler.dump_traceback_later(max(0.1, left), exit=True, file=descriptor)
    tell_of_exits(lambda _: faulthandler.dump_traceback(descriptor, all_threads=False))
    answer = Answer(descriptor, Copies(request["what"]))
    try:
        work(request["values"], answer)
    except BaseException as error:  # SystemExit, too: nothing that the user's code raises may leave this process
        answer.failed(error)
    answer.closed()
    faulthandler.cancel_dump_traceback_later()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    leave(0)
