"""`oatmill keygen`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def keygen(
    *,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for the keys, with a subfolder per role.")],
    add: Annotated[
        str | None, typer.Option("--add", metavar="NAME", help="Add one key, such as actor-east, to existing keys.")
    ] = None,
    revoke: Annotated[str | None, typer.Option("--revoke", metavar="NAME", help="Revoke a key, even if it is in use.")] = None,
    if_missing: Annotated[bool, typer.Option("--if-missing", help="Do nothing if the keys exist already.")] = False,
) -> None:
    """Create the CURVE keys of a cluster.

    DIR gets a folder for each role: server (for `oatmill replay`), learner, actor and operator.
    Each role needs only its own folder.
    """
    from oatmill.errors import UserError  # noqa: PLC0415
    from protocol.security.keys import add_key, is_complete, make_keys, revoke_key  # noqa: PLC0415

    if sum((add is not None, revoke is not None, if_missing)) > 1:
        raise UserError("expected one of --add, --revoke and --if-missing, got several")
    if add is not None:
        add_key(folder, add)
        typer.echo(f"{folder / add}: key added; the server accepts it from now on")
    elif revoke is not None:
        revoke_key(folder, revoke)
        typer.echo(f"{folder}: {revoke} was revoked")
    elif if_missing and is_complete(folder):
        typer.echo(f"{folder}: keys exist and were not changed")
    else:
        make_keys(folder)
        typer.echo(f"{folder}: created keys for server, learner, actor and operator, each in its own folder")
