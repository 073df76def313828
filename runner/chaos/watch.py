"""Observes a run while faults are injected: gaps between learner steps, and the ledger."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType

from runner.operator_client import OperatorClient, operator_client

LOOK_EVERY_S = 0.2
TOLD_FOR_S = 30.0
"""For this long after an event about damage, returning actors may still reveal further losses."""
DAMAGE = '"event": "log_damaged"'


class Watch:
    """A thread that asks the run's hub for its status several times a second.

    Args:
        control: the hub's address.
        events: the run's events.jsonl.

    Attributes:
        longest_gap: the most seconds between two learner steps, without times in which a fault itself
            prevents training.
        produced: the largest number of produced trajectories in the ledger so far.
        refused: the number of rejected messages and connections, by reason.
    """

    def __init__(self, control: str, events: Path) -> None:
        self._control, self._events = control, events
        self._ending, self._lock = threading.Event(), threading.Lock()
        self._planned = 0
        self._gap, self._looked, self._trained = 0.0, time.monotonic(), -1
        self._lost = self._known = self._silent = self._told = 0
        self._told_at = -float("inf")
        self.longest_gap = 0.0
        self.produced = 0
        self.refused: Mapping[str, int] = {}
        self._thread = threading.Thread(target=self._run, name="watch")

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ending.set()
        self._thread.join()

    @contextlib.contextmanager
    def planned(self) -> Iterator[None]:
        """Mark a time in which no learner step is expected."""
        self._plan(1)
        try:
            yield
        finally:
            self._plan(-1)

    def _plan(self, change: int) -> None:
        with self._lock:
            self._pass()
            self._planned += change

    def _pass(self) -> None:
        """Count the time since the last look."""
        now = time.monotonic()
        if not self._planned:
            self._gap += now - self._looked
            self.longest_gap = max(self.longest_gap, self._gap)
        self._looked = now

    def _run(self) -> None:
        with operator_client(self._control) as hub:
            while not self._ending.wait(LOOK_EVERY_S):
                self._look(hub)

    def _look(self, hub: OperatorClient) -> None:
        status = hub.status(unless=self._ending.is_set)
        with self._lock:
            self._pass()
            if status is None:
                return
            ledger = status["ledger"]
            trained = ledger["trained"] + ledger["dropped"]["rolled_back"]
            if trained > self._trained:
                self._gap = 0.0
            self._trained = trained  # damage to the log may lower it
            self.produced = max(self.produced, ledger["produced"])
            self._lost = ledger["lost"]
            self.refused = {reason: count for reason, count in status["rejected"].items() if count}

    def damage_events(self) -> int:
        """The number of events about damage to the log."""
        return self._events.read_text().count(DAMAGE)

    def look_for_losses(self) -> None:
        """Count new losses; they are silent unless an event has reported damage shortly before."""
        now, told, lost = time.monotonic(), self.damage_events(), self._lost
        if told > self._told:
            self._told, self._told_at = told, now
        if lost > self._known and now - self._told_at > TOLD_FOR_S:
            self._silent += lost - self._known
        self._known = max(self._known, lost)

    def silent_losses(self, lost: int) -> int:
        """The number of losses without an event, given the final number of losses."""
        self._lost = lost
        self.look_for_losses()
        return self._silent
