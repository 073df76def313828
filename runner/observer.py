"""The interface for watching a run, and an observer that prints progress lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

from oatmill.process.nonblocking_output import LAST_WORDS_S, NonBlockingOutput, unblocked

PLAIN_EVERY_S = 5.0
MINUTES_FROM_S = 99.0
HOURS_FROM_S = 5940.0
"""Durations from here on are told in minutes, and in hours."""


class Observer(Protocol):
    """Watches a run. No method may raise or block: a closed or unread terminal must not end the training."""

    def started(self, run_dir: Path, total_timesteps: int, notes: Sequence[str]) -> None:
        """The run's processes are being started.

        Args:
            run_dir: run folder.
            total_timesteps: budget, in environment steps.
            notes: notes of the plan, one line each.
        """
        ...

    def reported(self, line: Mapping[str, Any]) -> None:
        """A learner step was reported; `line` is its line of metrics.jsonl."""
        ...

    def noted(self, text: str) -> None:
        """An event, such as an actor's restart or a stop request."""
        ...

    def failed(self, name: str, last_lines: Sequence[str]) -> None:
        """A process has died and ends the run; `last_lines` are the last lines of its log."""
        ...

    def ended(self) -> None:
        """Nothing more will come."""
        ...


class PlainObserver:
    """Writes a progress line every few seconds. Lines that nobody reads are dropped and counted.

    Args:
        output: output stream; None takes standard error.
        every_s: seconds between two progress lines.
    """

    def __init__(self, output: TextIO | None = None, every_s: float = PLAIN_EVERY_S) -> None:
        self._output = unblocked(output or sys.stderr)
        self._every_s = every_s
        self._total = 0
        self._next = 0.0
        self._pending: Mapping[str, Any] | None = None

    def started(self, run_dir: Path, total_timesteps: int, notes: Sequence[str]) -> None:
        """See Observer."""
        self._total = total_timesteps
        self._write(f"run folder {run_dir}")
        for note in notes:
            self._write(f"note: {note}")

    def reported(self, line: Mapping[str, Any]) -> None:
        """See Observer."""
        self._pending = line
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self._every_s
            self._flush()

    def noted(self, text: str) -> None:
        """See Observer."""
        self._write(text)

    def failed(self, name: str, last_lines: Sequence[str]) -> None:
        """See Observer."""
        self._flush()
        self._write(f"the last lines of {name}:")
        for line in last_lines:
            self._write(f"  {line}")

    def ended(self) -> None:
        """See Observer."""
        self._flush()
        let_read(self._output)

    def _flush(self) -> None:
        if self._pending is not None:
            self._show(self._pending)
            self._pending = None

    def _show(self, line: Mapping[str, Any]) -> None:
        self._write(progress_line(line, self._total))

    def _write(self, text: str) -> None:
        try:
            self._output.write(f"{text}\n")
            self._output.flush()
        except (OSError, ValueError):
            return


def let_read(output: TextIO | NonBlockingOutput) -> None:
    """Wait for a limited time until the reader of a non-blocking output has read everything."""
    if isinstance(output, NonBlockingOutput):
        output.drain(LAST_WORDS_S)


def progress_line(line: Mapping[str, Any], total_timesteps: int) -> str:
    """One line per reported learner step: progress, speed, return, and each weighted loss with its share."""
    losses = "  ".join(
        f"{name} {number(loss.get('weighted'), '.3g')} ({number(loss.get('share'), '.0%')})"
        for name, loss in line.get("losses", {}).items()
    )
    env_steps = line.get("env_steps", 0)
    return (
        f"{env_steps:>9,} env steps ({done(line, total_timesteps):4.0%})  "
        f"{number(line.get('env_steps_per_second'), ',.0f')}/s  {clock(time_left(line, total_timesteps))} left  "
        f"return {number(value(line, 'episode_return', 'mean'), '.2f')}  {losses}  "
        f"entropy {number(value(line, 'entropy', 'nats'), '.2f')}  lag {number(value(line, 'policy_lag', 'p50'), '.0f')}  "
        f"queue {number(value(line, 'queue', 'trajectories'), '.0f')}"
    )


def done(line: Mapping[str, Any], total_timesteps: int) -> float:
    """The fraction of the budget that is spent, at most 1: the last batch may go beyond it."""
    return min(1.0, (line.get("env_steps") or 0) / max(total_timesteps, 1))


def time_left(line: Mapping[str, Any], total_timesteps: int) -> float | None:
    """Seconds until the budget is spent at the present rate; None if the rate is not known."""
    rate, env_steps = line.get("env_steps_per_second"), line.get("env_steps") or 0
    return max(0.0, (total_timesteps - env_steps) / rate) if rate else None


def clock(seconds: float | None) -> str:
    """A duration as hours, minutes and seconds, such as 0:03:09; a dash if it is not known."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def value(line: Mapping[str, Any], *names: str) -> Any:
    """The value at nested names; None if there is none."""
    found: Any = line
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def number(found: Any, form: str) -> str:
    """A number as text; a dash if there is none."""
    return format(found, form) if isinstance(found, int | float) else "-"


def counted(count: int, noun: str) -> str:
    """A number and what it counts, such as `1 episode` and `2,000 episodes`."""
    ending = "" if count == 1 else "es" if noun.endswith("tch") else "s"
    return f"{count:,} {noun}{ending}"


def in_words(seconds: float) -> str:
    """A duration in seconds, minutes or hours, as few digits as it needs, such as `40 s` and `3.5 hours`."""
    for limit, size, unit in ((MINUTES_FROM_S, 1, "s"), (HOURS_FROM_S, 60, "minutes")):
        if seconds < limit:
            return f"{seconds / size:.2g} {unit}"
    hours = seconds / 3600
    return f"{hours:.2g} hours" if hours < 10 else f"{hours:,.0f} hours"  # noqa: PLR2004
