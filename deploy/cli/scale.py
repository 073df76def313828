"""`oatmill scale`."""

from __future__ import annotations

from typing import Annotated

import typer

from deploy.cli.options import LogLevel, LogLevelOption, RunDirOption


def scale(
    *,
    actors: Annotated[int, typer.Option("--actors", metavar="N", min=0, max=10_000, help="Actors that the run shall have.")],
    run_dir: RunDirOption = None,
    log_level: LogLevelOption = LogLevel.info,  # noqa: ARG001  (its callback acts)
) -> None:
    """Change a run's number of actors."""
    from recipes.hub_line import hub_line  # noqa: PLC0415
    from recipes.run_folder import find_run, read_run  # noqa: PLC0415

    folder = find_run(run_dir)
    with hub_line(read_run(folder)["control"]) as hub:
        hub.scale(actors)
    typer.echo(f"{folder}: {actors} actors are wanted")
