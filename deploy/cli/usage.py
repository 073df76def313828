"""`oatmill help`."""

from __future__ import annotations

from typing import Annotated

import typer


def help_(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[COMMAND]...", help="The command, such as train, or cluster up.")
    ] = None,
) -> None:
    """Show how a command is used, as `oatmill COMMAND --help` does."""
    from deploy.cli.app import app  # noqa: PLC0415

    app([*(words or ()), "--help"], prog_name="oatmill", standalone_mode=False)
