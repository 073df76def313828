"""`oatmill status`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import typer

from deploy.cli.groups import ActiveRun, Hub
from deploy.cli.options import JsonOption, print_json

COLUMNS = ("role", "id", "pid", "restarts")


def status(*, run: ActiveRun, as_json: JsonOption = False) -> None:
    """Show an active run's processes and progress."""
    from runner.folder import reading  # noqa: PLC0415

    hub = run.hub()
    if hub.folder is None:
        show_hub(hub, as_json=as_json)
        return
    with reading(hub.folder / "run.json"):
        rows = [{column: process[column] for column in COLUMNS} for process in hub.running["processes"]]
    if as_json:
        print_json(rows)
        return
    with hub.client() as client:
        answer = client.status()
    for line in status_lines(hub.name, rows, answer):
        typer.echo(line)


def show_hub(hub: Hub, *, as_json: bool) -> None:
    """Show the status of the hub at an address, which does not include processes."""
    from oatmill.errors import RunError  # noqa: PLC0415

    with hub.client() as client:
        answer = client.status()
    if answer is None:
        raise RunError(f"no hub answers at {hub.address}")
    if as_json:
        print_json(answer)
        return
    for line in progress_lines(answer):
        typer.echo(line)


def progress_lines(answer: Mapping[str, Any] | None) -> list[str]:
    """A run's progress as text.

    Args:
        answer: the hub's status; None if it did not answer.
    """
    if answer is None:
        return ["the replay server does not answer (yet)"]
    fleet, learner = answer["fleet"], answer["learner"]
    from runner.observer import counted  # noqa: PLC0415

    mean, version = (fleet.get("episode_return") or {}).get("mean"), answer["policy_version"]
    return [
        f"{learner.get('env_steps', 0):,} env steps trained in {counted(learner.get('learner_step', 0), 'learner step')}, "
        f"policy version {version if version >= 0 else '-'}, mean return {'-' if mean is None else format(mean, '.2f')}",
        actors_line(answer),
        *machine_lines(answer.get("machines", [])),
        *uneven_lines(fleet),
    ]


def actors_line(answer: Mapping[str, Any]) -> str:
    """How many actors there are, or that the run is over."""
    live = answer["live"]
    if not answer.get("stop"):
        return f"{live} of {answer['desired_actors']} actors live"
    return f"the run is ending; actors that have not left yet: {live}" if live else "the run is over"


def machine_lines(machines: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line for each machine that has joined."""
    return [
        f"{machine['name']} has joined: {machine['share']} of {machine['actors']} actors, "
        f"numbers {machine['first']} to {machine['first'] + machine['actors'] - 1}"
        for machine in machines
    ]


def uneven_lines(fleet: Mapping[str, Any]) -> list[str]:
    """Lines about silent actors and actors that are much slower than the others, if there are any."""
    silent = [f"actor {number} for {seconds:.0f} s" for number, seconds in fleet.get("silent_actors", {}).items()]
    slow = [f"actor {number} {seconds:.2g} s" for number, seconds in fleet.get("slow_actors", {}).items()]
    lines = [f"silent (heartbeats, no data): {', '.join(silent)}"] if silent else []
    return [*lines, f"slow (time for a block): {', '.join(slow)}"] if slow else lines


def status_lines(folder: str, rows: Sequence[Mapping[str, Any]], answer: Mapping[str, Any] | None) -> list[str]:
    """The output of the command.

    Args:
        folder: the run folder.
        rows: the run's processes.
        answer: the hub's status; None if it did not answer.
    """
    lines = [f"run {folder}", *progress_lines(answer)]
    lines.append("".join(f"{column:<12}" for column in COLUMNS).rstrip())
    lines += ["".join(f"{row[column]!s:<12}" for column in COLUMNS).rstrip() for row in rows]
    return lines
