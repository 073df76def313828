"""Runs user code in a separate process, so that it cannot end, block or print into the command."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import time
from types import TracebackType
from typing import Any, Self

import psutil

from oatmill.children.environment import child_environment
from oatmill.errors import RunError, UserError
from oatmill.process.kill import kill_all
from oatmill.user_code import place_in_stacks

CLOSE_WITHIN_S = 2.0
"""Time for the process to clean up after its answer. Then it is killed, and the answer still counts."""
SLACK_S = 2.0
"""A process that its own timer has not ended this long after the limit is killed."""
SLOW_S = 10.0
"""After this long without an answer, a warning says what the command is waiting for."""
POLL_S = 0.02
TAIL_BYTES = 4096
LAST_WORDS = 300
THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

log = logging.getLogger("oatmill.user_code_process")


class UserCodeProcess:
    """One task in a separate process. A context manager: no process of the task is left afterwards.

    Args:
        module: module to run with `python -m`; it calls `oatmill.children.worker.serve`.
        values: plain values for the task.
        what: the user code that is run, for messages, such as `env.factory=maze:make`.
        limit_s: time limit for the answer, in seconds; None for no limit.
        setting: the setting that the limit comes from, for messages.
        shown: whether its output is shown on standard error. If not, the last line is reported when
            it dies.
        threads: number of threads for its numerical libraries; None keeps the command's own limits.
    """

    def __init__(
        self,
        module: str,
        values: Any,
        *,
        what: str,
        limit_s: float | None = None,
        setting: str = "",
        shown: bool = False,
        threads: int | None = 1,
    ) -> None:
        self._what, self._limit_s, self._setting = what, limit_s, setting
        self._tail, self._said, self._dump = b"", b"", ""
        self._record: dict[str, Any] | None = None
        self._notes: list[str] = []
        self._closed = self._ended = False
        self._started = _now()
        answer, its_end = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, str(its_end), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=None if shown else subprocess.PIPE,
            env=_environment(threads),
            start_new_session=True,
            pass_fds=[its_end],
        )
        os.close(its_end)
        self._answer = os.fdopen(answer, "rb", buffering=0)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._answer, selectors.EVENT_READ, self._take_answer)
        if self._process.stderr is not None:
            self._selector.register(self._process.stderr, selectors.EVENT_READ, self._take_output)
        self._ask(values)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()

    def result(self) -> Any:
        """Wait for the answer.

        Raises:
            UserError: if the task refuses its input, or takes longer than its limit.
            RunError: if a task without a limit fails in another way.
        """
        next_line = self._started + SLOW_S
        while self._record is None:
            gone = self._process.poll() is not None
            self._pump(0.0 if gone else POLL_S)
            if self._record is None and (gone or self._is_over()):
                raise self._failure(self._death())
            if self._limit_s is not None and _now() > next_line:
                next_line += SLOW_S * 6
                log.warning("%s is still being built after %.0f s", self._what, _now() - self._started)
        if "result" in self._record:
            return self._record["result"]
        if "error" in self._record:
            raise (UserError if self._record["bad_input"] else RunError)(self._record["error"])
        raise self._failure(self._record["ended"])

    def finish(self) -> list[str]:
        """Let the process clean up, for a limited time; returns one line per problem."""
        deadline = _now() + CLOSE_WITHIN_S
        while self._process.poll() is None and _now() < deadline:
            self._pump(POLL_S)
        self._pump(0.0)
        ends = list(self._notes)
        if self._process.returncode is None and not self._closed:
            ends.append(f"took more than {CLOSE_WITHIN_S:g} s, and its process was killed")
        elif self._process.returncode:
            ends.append(self._death())
        self._end()
        return [f"when {self._what} was closed, it {end}" for end in ends]

    def _ask(self, values: Any) -> None:
        until = None if self._limit_s is None else self._started + self._limit_s
        request = {"what": self._what, "values": values, "until": until, "log_level": logging.getLogger().getEffectiveLevel()}
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._process.stdin as stdin:  # `result` detects an ended process
            stdin.write(json.dumps(request).encode())

    def _pump(self, timeout_s: float) -> None:
        """Read what the process has answered and printed; wait for it for a limited time."""
        if not self._selector.get_map():
            time.sleep(timeout_s)
        for key, _ in self._selector.select(timeout_s):
            chunk = os.read(key.fd, 1 << 20)
            if chunk:
                key.data(chunk)
            else:
                self._selector.unregister(key.fileobj)

    def _take_answer(self, chunk: bytes) -> None:
        *lines, self._said = (self._said + chunk).split(b"\n")
        for line in lines:
            if not line.startswith(b"{"):
                self._dump += line.decode(errors="replace") + "\n"
                continue
            record = json.loads(line)
            if "note" in record:
                self._notes.append(record["note"])
            elif "closed" in record:
                self._closed = True
            else:
                self._record = record

    def _take_output(self, chunk: bytes) -> None:
        log.debug("%s printed: %s", self._what, chunk.decode(errors="replace").rstrip())
        self._tail = (self._tail + chunk)[-TAIL_BYTES:]

    def _is_over(self) -> bool:
        return self._limit_s is not None and _now() - self._started > self._limit_s + SLACK_S

    def _death(self) -> str:
        """How the process ended or hung, as the predicate of a sentence."""
        code, place, words = self._process.returncode, self._place(), self._last_words()
        if code is None or self._dump.startswith("Timeout"):
            return f"is not ready after {self._limit_s:g} s{place}{words}; if it needs longer, raise {self._setting}"
        if code < 0:
            return f"ended its process by {signal.Signals(-code).name}{place}{words}"
        return f"ended its process with exit code {code}, by os._exit or in C code{place}{words}"

    def _place(self) -> str:
        """The newest call in the user's code, from the stack traces that the process has written."""
        place = place_in_stacks(self._dump)
        return f" ({place})" if place else ""

    def _last_words(self) -> str:
        lines = self._tail.decode(errors="replace").splitlines()
        words = next((" ".join(line.split()) for line in reversed(lines) if line.strip()), "")
        return f"; the last line that it printed: {words[-LAST_WORDS:]}" if words else ""

    def _failure(self, how: str) -> UserError | RunError:
        return (RunError if self._limit_s is None else UserError)(f"{self._what} {how}")

    def _end(self) -> None:
        """End the process and all its children. Safe to call twice."""
        if self._ended:
            return
        self._ended = True
        family: list[psutil.Process] = []
        with contextlib.suppress(psutil.Error):
            family = psutil.Process(self._process.pid).children(recursive=True)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        kill_all(family)
        self._process.wait()
        self._selector.close()
        self._answer.close()
        if self._process.stderr is not None:
            self._process.stderr.close()


def _now() -> float:
    """Seconds of the clock that all processes of a machine share: the child counts its limit from the same start."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)


def _environment(threads: int | None) -> dict[str, str]:
    if threads is not None:
        return child_environment(os.environ, threads)
    own = {name: value for name, value in os.environ.items() if name in THREAD_LIMITS}
    return {name: value for name, value in child_environment(os.environ, 1).items() if name not in THREAD_LIMITS} | own
