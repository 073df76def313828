"""Ctrl-C, SIGTERM and a closed terminal as a count that a loop looks at, instead of an exception anywhere."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_Handler = Callable[[int, FrameType | None], object] | int | None


class Terminated(KeyboardInterrupt):
    """SIGTERM came.

    A class of its own because CPython ends a `python -m` process by SIGINT, whatever it returns, once a KeyboardInterrupt of
    exactly that class has passed through an `exec` of text, and every dataclass that is made while torch is imported is one.
    """


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """While entered, SIGTERM raises a KeyboardInterrupt as Ctrl-C does, so that what was begun is taken back on the way out."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Interrupts:
    """Counts signals while entered. Outside the main thread, where signals cannot be handled, it stays at 0.

    A signal that this process was started to ignore, as `nohup` does with SIGHUP, stays ignored.

    Attributes:
        count: signals so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._before: dict[signal.Signals, _Handler] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, _signal: int, _frame: FrameType | None) -> None:
        self.count += 1
