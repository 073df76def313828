"""Stop signals (Ctrl-C, SIGTERM, a closed terminal): a flag in a role, an exception while a run is planned, then a count."""

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
"""Signals that come within this time of each other are one stop: `timeout`, `uv run` and shells deliver one several times."""

AGAIN_S = 0.05
"""A stop that comes while a module is imported waits; it is looked at again after this long."""
IMPORT_WITHIN_S = 20.0
"""It waits no longer than this: the import may hang."""

POLL_MS = 50
"""The longest sleep of a loop that looks at a StopFlag, in milliseconds, so that a stop is noticed soon."""

_Handler = Callable[[int, FrameType | None], object] | int | None


class StopFlag:
    """Whether SIGTERM or SIGINT has come to this process since this object was made.

    The handler sets the flag, so that a signal may come at any time. A role's loop looks at the flag and ends in order.

    Args:
        on_stop: is called with each signal, inside the handler; None for nothing.

    Attributes:
        is_set: whether this process was asked to stop.
    """

    def __init__(self, on_stop: Callable[[], object] | None = None) -> None:
        self.is_set = False
        self._on_stop = on_stop
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self.is_set = True
        if self._on_stop is not None:
            self._on_stop()


class Terminated(KeyboardInterrupt):
    """A signal has asked this process to stop.

    A class of its own because CPython ends a `python -m` process by SIGINT, whatever it returns, once a KeyboardInterrupt of
    exactly that class has passed through an `exec` of text, and every dataclass that is made while torch is imported is one.
    """


class Stops:
    """How often this process was asked to stop.

    Attributes:
        count: stops so far.
        owed: whether one has not been raised yet.
    """

    def __init__(self) -> None:
        self.count = 0
        self.owed = False
        self._counted = -float("inf")

    @property
    def age_s(self) -> float:
        """Seconds since the newest stop."""
        return time.monotonic() - self._counted

    def hear(self) -> bool:
        """Take in a signal; whether it is a stop of its own and not the one before, delivered again."""
        if self.age_s < ONE_STOP_S:
            return False
        self._counted = time.monotonic()
        self.count += 1
        return True

    def check(self) -> None:
        """Raise Terminated if a stop was asked for: the exception of its signal may have been lost.

        Python drops an exception that is raised inside a finaliser or a callback, with no more than a warning.
        """
        self.owed = False
        if self.count:
            raise Terminated


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[Stops]:
    """While entered, each stop raises Terminated, a KeyboardInterrupt, so that what was begun is taken back on the way out.

    A stop that comes while a module is imported is raised after that: in the import of a C++ extension such as torch's an
    exception aborts the process, and in Python's own callbacks it is lost.
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
            signal.pthread_kill(main, number)  # to that thread, so that it is woken where it waits

    with _handled(interrupt):
        try:
            yield stops
        finally:
            stops.owed = False


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported where a signal came."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


class Interrupts:
    """Counts stops while entered. Outside the main thread, where signals cannot be handled, it stays at what it was.

    Args:
        stops: those that were asked for before; None for none.
    """

    def __init__(self, stops: Stops | None = None) -> None:
        self._stops = stops or Stops()
        self._stack = contextlib.ExitStack()

    @property
    def count(self) -> int:
        """Stops so far. Signals within a second of each other are one."""
        return self._stops.count

    def __enter__(self) -> Self:
        self._stack.enter_context(_handled(lambda _signal, _frame: self._stops.hear()))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()


@contextlib.contextmanager
def _handled(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Have a handler for the signals that ask for a stop; one that this process was started to ignore (nohup) stays ignored."""
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
