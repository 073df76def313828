"""`oatmill keygen`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.options import LogLevel, LogLevelOption


def keygen(
    *,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the keys are: a folder for each role is made in it.")],
    add: Annotated[
        str | None, typer.Option("--add", metavar="NAME", help="Add one key, such as actor-east, to those that are there.")
    ] = None,
    revoke: Annotated[
        str | None, typer.Option("--revoke", metavar="NAME", help="Trust a key no more, also where it is in use.")
    ] = None,
    if_missing: Annotated[bool, typer.Option("--if-missing", help="Leave keys that are there as they are.")] = False,
    log_level: LogLevelOption = LogLevel.info,  # noqa: ARG001  (its callback acts)
) -> None:
    """Make the CURVE keys of a cluster.

    DIR gets a folder for each role: server (for `oatmill replay`), learner, actor and operator. Each needs its own folder only.
    """
    from oatmill.errors import UserError  # noqa: PLC0415
    from protocol.security.keys import add_key, is_complete, make_keys, revoke_key  # noqa: PLC0415

    if sum((add is not None, revoke is not None, if_missing)) > 1:
        raise UserError("expected one of --add, --revoke and --if-missing, got several")
    if add is not None:
        add_key(folder, add)
        typer.echo(f"{folder / add}: a key that the server trusts from now on")
    elif revoke is not None:
        revoke_key(folder, revoke)
        typer.echo(f"{folder}: {revoke} is trusted no more")
    elif if_missing and is_complete(folder):
        typer.echo(f"{folder}: keys are there and stay as they are")
    else:
        make_keys(folder)
        typer.echo(f"{folder}: keys for server, learner, actor and operator, each in a folder of its own")
