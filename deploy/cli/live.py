"""The live view of a run on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn, TextIO, cast

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from runner.observer import PlainObserver, clock, done, let_read, number, time_left, value

DRAW_EVERY_S = 0.25
GAP = "   "
WIDE = 64
"""Columns from which the table of losses has all its columns."""
COLUMNS: Mapping[str, tuple[str, str]] = {
    "raw": ("raw", ".4g"),
    "weighted": ("weighted", ".4g"),
    "share": ("share", ".1%"),
    "gradient share": ("gradient_share", ".1%"),
}
"""The table's columns: the number's name, and its format."""


class SteadyConsole(Console):
    """A console that raises an exception for a lost terminal instead of ending the program."""

    def on_broken_pipe(self) -> NoReturn:
        """Called by rich."""
        raise BrokenPipeError


class LiveObserver(PlainObserver):
    """Draws a run's progress, speed, return and losses; a lost terminal only ends the drawing.

    Args:
        output: the terminal.
        width: the terminal's width; None detects it.
    """

    def __init__(self, output: TextIO, *, width: int | None = None) -> None:
        super().__init__(output, DRAW_EVERY_S)
        file = cast("IO[str]", self._output)  # rich writes, flushes and asks for the encoding
        self._console = SteadyConsole(file=file, highlight=False, force_terminal=True, width=width)
        # No refresh thread, because it might hold a lock while a child process is forked.
        self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        self._lost = False

    def started(self, run_dir: Path, total_timesteps: int, notes: Sequence[str]) -> None:
        """See Observer."""
        super().started(run_dir, total_timesteps, notes)
        self._draw(self._live.start)

    def failed(self, name: str, last_lines: Sequence[str]) -> None:
        """See Observer."""
        self.ended()
        super().failed(name, last_lines)

    def ended(self) -> None:
        """See Observer."""
        self._flush()
        self._draw(self._live.stop)
        let_read(self._output)

    def _show(self, line: Mapping[str, Any]) -> None:
        self._draw(lambda: self._live.update(view(line, self._total, self._console.width), refresh=True))

    def _write(self, text: str) -> None:
        self._draw(lambda: self._console.print(text, markup=False, soft_wrap=True))

    def _draw(self, action: Callable[[], None]) -> None:
        if self._lost:
            return
        try:
            action()
        except (OSError, ValueError):
            self._lost = True


def view(line: Mapping[str, Any], total_timesteps: int, width: int) -> RenderableType:
    """A reported learner step as a block of text.

    Args:
        line: a line of metrics.jsonl.
        total_timesteps: the budget, in env steps.
        width: of the terminal, in columns.
    """
    env_steps = line.get("env_steps", 0)
    bar = ProgressBar(total=total_timesteps, completed=min(env_steps, total_timesteps), width=max(10, min(40, width - 10)))
    head = Table.grid(padding=(0, 2))
    head.add_row(bar, f"{done(line, total_timesteps):.0%}")
    progress = [
        f"{env_steps:,} / {total_timesteps:,} env steps",
        f"{number(line.get('env_steps_per_second'), ',.0f')}/s",
        f"elapsed {clock(line.get('seconds'))}",
        f"left {clock(time_left(line, total_timesteps))}",
        f"return {number(value(line, 'episode_return', 'mean'), '.2f')}",
    ]
    facts = [
        f"entropy {number(value(line, 'entropy', 'nats'), '.2f')} nats ({number(value(line, 'entropy', 'fraction'), '.0%')})",
        f"explained variance {number(line.get('explained_variance'), '.2f')}",
        f"lag {number(value(line, 'policy_lag', 'p50'), '.0f')}",
        f"queue {number(value(line, 'queue', 'trajectories'), '.0f')}",
        f"version {line.get('policy_version')}",
    ]
    flags = line.get("red_flags") or []
    shown = [*flowed(progress, width), *flowed(facts, width)]
    parts: list[RenderableType] = [head, *map(Text, shown), losses_table(line.get("losses", {}), width)]
    return Group(*parts, *([Text(f"red flags: {', '.join(flags)}", style="red")] if flags else []))


def flowed(facts: Sequence[str], width: int) -> list[str]:
    """Short texts side by side, as many in a line as fit."""
    lines: list[str] = []
    for fact in facts:
        if lines and len(lines[-1]) + len(GAP) + len(fact) <= width:
            lines[-1] += f"{GAP}{fact}"
        else:
            lines.append(fact)
    return lines


def losses_table(losses: Mapping[str, Mapping[str, Any]], width: int) -> RenderableType:
    """Each loss with its share of the gradient; where there is room, also raw, weighted and its share of the objective."""
    columns = COLUMNS if width >= WIDE else {"weighted": COLUMNS["weighted"], "gradient": COLUMNS["gradient share"]}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("loss", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for name, loss in losses.items():
        table.add_row(name, *(number(loss.get(key), form) for key, form in columns.values()))
    return table
