"""`oatmill status`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import typer

from deploy.cli.options import JsonOption, LogLevel, LogLevelOption, RunDirOption, print_json

COLUMNS = ("role", "id", "pid", "restarts")


def status(
    *,
    run_dir: RunDirOption = None,
    as_json: JsonOption = False,
    log_level: LogLevelOption = LogLevel.info,  # noqa: ARG001  (its callback acts)
) -> None:
    """Show a run that is going on.

    That is its processes, how far it is and how well it does.
    """
    from recipes.hub_line import hub_line  # noqa: PLC0415
    from recipes.run_folder import find_run, read_run  # noqa: PLC0415

    folder = find_run(run_dir)
    run = read_run(folder)
    rows = [{column: process[column] for column in COLUMNS} for process in run["processes"]]
    if as_json:
        print_json(rows)
        return
    with hub_line(run["control"]) as hub:
        answer = hub.status()
    for line in status_lines(str(folder), rows, answer):
        typer.echo(line)


def status_lines(folder: str, rows: Sequence[Mapping[str, Any]], answer: Mapping[str, Any] | None) -> list[str]:
    """What is shown.

    Args:
        folder: the run's.
        rows: its processes.
        answer: the hub's status, None if it has not answered.
    """
    lines = [f"run {folder}"]
    if answer is None:
        lines.append("the replay server does not answer (yet)")
    else:
        fleet, learner = answer["fleet"], answer["learner"]
        mean = (fleet.get("episode_return") or {}).get("mean")
        lines.append(
            f"{learner.get('env_steps', 0):,} env steps trained in {learner.get('learner_step', 0):,} learner steps, "
            f"policy version {answer['policy_version']}, mean return {'-' if mean is None else format(mean, '.2f')}"
        )
        lines.append(f"{answer['live']} of {answer['desired_actors']} actors live")
    lines.append("".join(f"{column:<12}" for column in COLUMNS).rstrip())
    lines += ["".join(f"{row[column]!s:<12}" for column in COLUMNS).rstrip() for row in rows]
    return lines
