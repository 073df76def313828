"""`oatmill top`."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from deploy.cli.groups import OneRun
from oatmill.files.run_files import CONFIG_FILE, EVENTS_FILE, METRICS_FILE

EVERY_S = 1.0
EVENTS_SHOWN = 5
EXPLAIN_THEMSELVES = frozenset({"how", "outcome", "reason", "why", "error"})
"""Values of events that are words: `ended with exit code 0`."""


def top(
    *,
    watched: OneRun,
    once: Annotated[bool, typer.Option("--once", help="Print it once, as if stdout was not a terminal.")] = False,
) -> None:
    """Watch a run: progress, speed, losses with their shares, red flags, actors and recent events.

    Ctrl-C ends the display, not the run.
    """
    from rich.console import Group  # noqa: PLC0415
    from rich.live import Live  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    from deploy.cli.live import SteadyConsole, view  # noqa: PLC0415
    from oatmill.files.json_lines import last_line, last_lines  # noqa: PLC0415
    from runner.folder import find_run, is_held, reading  # noqa: PLC0415
    from runner.settings import read_config  # noqa: PLC0415

    console = SteadyConsole(highlight=False)
    folder = find_run(watched.folder)
    total = read_config(folder / CONFIG_FILE).trainer.total_timesteps

    def state(*, going_on: bool) -> Group:
        with reading(metrics := folder / METRICS_FILE):
            line = last_line(metrics)
            losses = Text("nothing is reported yet") if line is None else view(line, total, console.width)
        with reading(events := folder / EVENTS_FILE):
            recent = [event_line(event) for event in last_lines(events, EVENTS_SHOWN)]
        rest = [*fleet_lines(folder, going_on=going_on), *recent]
        return Group(Text(f"run {folder}"), losses, *(Text(text, no_wrap=True, overflow="ellipsis") for text in rest))

    if once or not console.is_terminal:
        console.print(state(going_on=is_held(folder)))
        return
    try:
        with Live(console=console, auto_refresh=False, screen=False) as live:
            while True:
                going_on = is_held(folder)
                live.update(state(going_on=going_on), refresh=True)
                if not going_on:
                    return
                time.sleep(EVERY_S)
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(0)


def fleet_lines(folder: Path, *, going_on: bool) -> list[str]:
    """The hub's status of actors and data, or that the run has ended."""
    from deploy.cli.status import uneven_lines  # noqa: PLC0415
    from runner.folder import hub_of, read_json  # noqa: PLC0415
    from runner.operator_client import operator_client  # noqa: PLC0415

    run = read_json(folder / "run.json")
    if not going_on or "control" not in run:
        return ["the run has ended; see summary.json" if not going_on else "the run is starting"]
    with operator_client(*hub_of(folder, run)) as hub:
        status = hub.status()
    if status is None:
        return ["the replay server does not answer (yet)"]
    ledger: Mapping[str, Any] = status.get("ledger", {})
    dropped = sum(ledger.get("dropped", {}).values())
    return [
        f"actors {status['live']} of {status['desired_actors']} live   produced {ledger.get('produced', 0):,}   "
        f"trained {ledger.get('trained', 0):,}   queued {ledger.get('queued', 0):,}   dropped {dropped:,}   "
        f"lost {ledger.get('lost', 0):,}",
        *uneven_lines(status.get("fleet", {})),
    ]


def event_line(event: Mapping[str, Any]) -> str:
    """An event of events.jsonl as one line: time, name, and its text, or its values if it has none."""
    clock = time.strftime("%H:%M:%S", time.localtime(event.get("time", 0.0)))
    facts: Sequence[str] = [fact(name, value) for name, value in event.items() if name not in {"time", "event"}]
    told = str(event.get("text") or "") or ", ".join(filter(None, facts))
    return f"{clock}  {event.get('event', '')}  {told}".rstrip()[:160]


def fact(name: str, value: Any) -> str:
    """A value of an event; one that explains itself is without its name, and what is not so is left out."""
    if value is False or value == "":
        return ""
    return name if value is True else str(value) if name in EXPLAIN_THEMSELVES else f"{name} {value}"
