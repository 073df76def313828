"""Stop signals: Ctrl-C, SIGTERM, a closed terminal.

A role's process sets a flag. While a run is planned, a stop raises an exception. While it runs,
stops are counted.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ONE_STOP_S = 1.0
"""Signals within this time count as one stop: `timeout`, `uv run` and shells deliver a signal
several times."""
ONE_DELIVERY_S = 0.1
"""A later signal within `ONE_STOP_S` comes from a user who presses Ctrl-C twice, and gets an answer."""
NOT_COUNTED = (
    f"this signal came within {ONE_STOP_S:g} s of the first one and does not count; press Ctrl-C again to stop immediately"
)

AGAIN_S = 0.05
"""A stop that arrives during an import waits; it is checked again after this long."""
IMPORT_WITHIN_S = 20.0
"""The longest such wait: the import may hang."""

POLL_MS = 50
"""The longest sleep of a loop that checks a StopFlag, in milliseconds, so that a stop is noticed
soon."""

_Handler = Callable[[int, FrameType | None], object] | int | None


class StopFlag:
    """Whether this process has received SIGTERM or SIGINT since this object was created.

    The signal handler sets the flag, so a signal may arrive at any time. A role's loop checks the
    flag and ends in order.

    Args:
        on_stop: called inside the handler for each signal; None for nothing.

    Attributes:
        is_set: whether this process was asked to stop.
    """

    def __init__(self, on_stop: Callable[[], object] | None = None) -> None:
        self.is_set = False
        self._on_stop = on_stop
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def is_set_within(self, within_s: float) -> bool:
        """Wait for a signal; whether one has arrived, now or within this time."""
        deadline = time.monotonic() + within_s
        while not self.is_set and time.monotonic() < deadline:
            time.sleep(POLL_MS / 1000)
        return self.is_set

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self.is_set = True
        if self._on_stop is not None:
            self._on_stop()


class Terminated(KeyboardInterrupt):
    """A signal has asked this process to stop.

    This has its own class because CPython ends a `python -m` process with SIGINT, whatever it
    returns, once a plain KeyboardInterrupt has passed through an `exec` of text. Importing torch
    calls such an `exec` for every dataclass.
    """


class Stops:
    """How often this process was asked to stop.

    Attributes:
        count: the number of stops so far.
        hasty: whether a signal did not count, although a user seems to have sent it.
        owed: whether a stop has not been raised yet.
    """

    def __init__(self) -> None:
        self.count = 0
        self.hasty = self.owed = False
        self._counted = -float("inf")

    @property
    def age_s(self) -> float:
        """The number of seconds since the newest stop."""
        return time.monotonic() - self._counted

    def hear(self) -> bool:
        """Handle a signal; returns whether it is a new stop and not a repetition of the last one."""
        if self.age_s < ONE_STOP_S:
            self.hasty = self.hasty or self.age_s > ONE_DELIVERY_S
            return False
        self._counted = time.monotonic()
        self.count += 1
        return True

    def check(self) -> None:
        """Raise Terminated if a stop was requested: the exception of its signal may have been lost.

        Python drops an exception that is raised inside a finaliser or a callback, with only a
        warning.
        """
        self.owed = False
        if self.count:
            raise Terminated


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[Stops]:
    """Within the `with` block, each stop raises Terminated, a KeyboardInterrupt, so that cleanup code runs.

    A stop that arrives during an import is raised after it: in the import of a C++ extension such
    as torch's, an exception aborts the process, and in Python's own callbacks it is lost.
    """
    stops = Stops()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if not (stops.owed or stops.hear()):
            return
        stops.owed = _imports(frame) and stops.age_s < IMPORT_WITHIN_S
        if not stops.owed:
            raise Terminated
        again = threading.Timer(AGAIN_S, ask_again, [number])
        again.daemon = True
        again.start()

    def ask_again(number: int) -> None:
        main = threading.main_thread().ident
        if stops.owed and main is not None:
            signal.pthread_kill(main, number)  # to the main thread, so that it wakes up if it waits

    with _handled(interrupt):
        try:
            yield stops
        finally:
            stops.owed = False


def _imports(frame: FrameType | None) -> bool:
    """Whether a module was being imported when a signal arrived."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


class Interrupts:
    """Counts stops within the `with` block.

    Outside the main thread, where signals cannot be handled, the count stays the same.

    Args:
        stops: the stops before it; None for none.
    """

    def __init__(self, stops: Stops | None = None) -> None:
        self._stops = stops or Stops()
        self._stack = contextlib.ExitStack()

    @property
    def count(self) -> int:
        """The number of stops so far. Signals within a second of each other count as one."""
        return self._stops.count

    def hasty(self) -> bool:
        """Whether a second Ctrl-C came too soon to count, so that the user should be told (`NOT_COUNTED`); True only once."""
        hasty, self._stops.hasty = self._stops.hasty, False
        return hasty

    def __enter__(self) -> Self:
        self._stack.enter_context(_handled(lambda _signal, _frame: self._stops.hear()))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()


@contextlib.contextmanager
def _handled(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Set a handler for the stop signals.

    A signal that this process was started to ignore (nohup) stays ignored.
    """
    before: dict[signal.Signals, _Handler] = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    before[number] = signal.signal(number, handler)
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)
