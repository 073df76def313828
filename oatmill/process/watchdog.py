"""Ends a process that makes no progress for too long.

It writes the stacks of all threads, and the process is restarted.
"""

from __future__ import annotations

import faulthandler
import math
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

from oatmill.process.awake_clock import AwakeClock
from oatmill.process.exit_codes import HUNG

TICK_S = 1.0
NATIVE_SLACK_S = 5.0
LONGEST_TICK = 3.0
"""A tick counts as at most this many times its length: if it took longer, the process itself was
paused (Ctrl-Z, SIGSTOP)."""
START_FACTOR = 10.0
"""Before `started` is called, the limit is this many times as long: environments are built and
networks compiled only once."""


class Watchdog:
    """Ends this process if `beat` is not called for a while.

    Each role decides what counts as progress. It calls `beat` once per turn of its loop, so a role
    that waits for data, credit or other processes, and wakes up regularly, is never considered to
    hang. Time in which the whole process was paused does not count.

    The stacks are written by a thread of this module. If C code hangs and keeps the interpreter's
    lock (an environment in an endless loop), that thread cannot run. `faulthandler` has its own
    timer, which needs no lock, and does the same a few seconds later.

    Args:
        role: the process's name in the message.
        limit_s: seconds without a `beat`.
        log: the file for the stacks; None for standard error. It must be a real file.
        native: whether to use `faulthandler`'s timer as well. It also counts time in which the
            process was paused.
        alive: called every second from the thread while the process is `healthy`.
    """

    def __init__(
        self,
        role: str,
        limit_s: float,
        *,
        log: TextIO | None = None,
        native: bool = True,
        alive: Callable[[], None] | None = None,
    ) -> None:
        self._role, self._limit, self._log, self._native = role, limit_s, log or sys.stderr, native
        self._alive = alive
        self._beats, self._factor = 0, START_FACTOR
        self._silent_s = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def beat(self) -> None:
        """Report progress. This is cheap; call it as often as you like."""
        self._beats += 1

    def started(self) -> None:
        """Report that start-up is over. From now on, the normal limit applies."""
        self._beats += 1
        self._factor = 1.0

    def pause(self) -> None:
        """Stop watching until `started`.

        A terminal that was paused with Ctrl-S blocks a process, and this is not a hang.
        """
        assert not self._native, "faulthandler's timer cannot be paused"
        self._factor = math.inf

    @property
    def healthy(self) -> bool:
        """Whether the last beat is younger than half of the limit.

        /healthz shows this before the process is ended.
        """
        return self._silent_s < self._limit * self._factor / 2

    def close(self) -> None:
        """Stop watching. Safe to call twice."""
        self._ended.set()
        self._thread.join()
        if self._native:
            faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        seen, tick = -1, min(TICK_S, self._limit / 4)
        clock = AwakeClock(LONGEST_TICK * tick)
        before = clock.now()
        while not self._ended.wait(tick):
            now = clock.now()
            passed, before = now - before, now
            beats = self._beats
            self._silent_s = 0.0 if beats != seen else self._silent_s + passed
            seen = beats
            if self._alive is not None and self.healthy:
                self._alive()
            if self._silent_s >= self._limit * self._factor:
                self._give_up()
            if self._native:
                faulthandler.dump_traceback_later(self._limit * self._factor + NATIVE_SLACK_S, exit=True, file=self._log)

    def _give_up(self) -> None:
        with suppress(OSError, ValueError):
            self._log.write(f"{self._role}: no progress for {self._silent_s:.1f} s; stacks of all threads:\n")
            self._log.flush()
            faulthandler.dump_traceback(self._log, all_threads=True)
            self._log.flush()
        os._exit(HUNG)
