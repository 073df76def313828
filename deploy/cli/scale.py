"""`oatmill scale`."""

from __future__ import annotations

from typing import Annotated

import typer

from deploy.cli.options import HubOption, KeysOption, LogLevel, LogLevelOption, RunArgument, RunDirOption, one_folder


def scale(
    run: RunArgument = None,
    *,
    actors: Annotated[int, typer.Option("--actors", metavar="N", min=0, max=10_000, help="Target number of actors.")],
    run_dir: RunDirOption = None,
    address: HubOption = None,
    keys: KeysOption = None,
    log_level: LogLevelOption = LogLevel.info,  # noqa: ARG001  (its callback acts)
) -> None:
    """Change a run's number of actors."""
    from runner.folder import find_run, keys_of, read_run  # noqa: PLC0415
    from runner.operator_client import operator_client  # noqa: PLC0415

    wanted = one_folder(run, run_dir)
    if wanted is None and address is not None:
        where, control, own = address, address, keys
    else:
        folder = find_run(wanted)
        running = read_run(folder)
        where, control, own = str(folder), running["control"], keys_of(running)
    with operator_client(control, own) as hub:
        hub.scale(actors)
    typer.echo(f"{where}: scaling to {actors} actors")
