"""`oatmill scale`."""

from __future__ import annotations

from typing import Annotated

import typer

from deploy.cli.groups import ActiveRun

PAUSED = "; the run pauses until it is scaled up again"


def scale(
    *,
    actors: Annotated[int, typer.Option("--actors", metavar="N", min=0, max=10_000, help="Target number of actors.")],
    run: ActiveRun,
) -> None:
    """Change a run's number of actors. With 0, the run pauses."""
    hub = run.hub()
    with hub.client() as client:
        client.scale(actors)
    typer.echo(f"{hub.name}: scaling to {actors} actors{PAUSED if actors == 0 else ''}")
