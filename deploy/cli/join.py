"""`oatmill join`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.options import KeysOption, LogLevel, LogLevelOption

MOST_ACTORS = 1000


def join(
    *,
    address: Annotated[
        str,
        typer.Argument(
            metavar="ADDRESS",
            envvar="OATMILL_ADDRESS",
            help="The run's control address: HOST, HOST:PORT or tcp://HOST:PORT. The port is 7302 if left out.",
        ),
    ],
    actors: Annotated[
        int, typer.Option("--actors", metavar="N", min=1, max=MOST_ACTORS, help="The maximum number of actors on this machine.")
    ],
    keys: KeysOption = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Run code that the run's settings name. Use it only for runs that you trust.")
    ] = False,
    log_dir: Annotated[
        Path | None,
        typer.Option("--log-dir", metavar="DIR", help="A folder for the actors' logs. Default: a temporary one."),
    ] = None,
    log_level: LogLevelOption = LogLevel.info,
) -> None:
    """Run actors on this machine for a run on another machine, until the run ends.

    The settings come from the run. `oatmill scale` also counts these actors. Ctrl-C or SIGTERM lets
    them finish their trajectories and stop.
    """
    from runner.local.joined_machine import Joining, join_run  # noqa: PLC0415
    from runner.observer import PlainObserver  # noqa: PLC0415

    observer = PlainObserver()
    join_run(
        Joining(
            address=control_address(address),
            actors=actors,
            keys=None if keys is None else keys.absolute(),
            trust=trust,
            logs=log_dir,
            log_level=log_level.value,
            say=observer.noted,
        )
    )
    observer.ended()


def control_address(text: str) -> str:
    """The address in full, such as tcp://HOST:7302.

    Raises:
        UserError: if it is not an address.
    """
    from oatmill.errors import UserError  # noqa: PLC0415
    from replay.addresses import DEFAULT_PORT, SOCKETS  # noqa: PLC0415
    from runner.local.listening import TCP  # noqa: PLC0415

    if text.startswith("ipc://"):
        return text
    address = text if "://" in text else f"tcp://{text}"
    match = TCP.match(address)
    port = int(match["port"] or DEFAULT_PORT + SOCKETS.index("control")) if match else 0
    if match is None or not 1 <= port <= 65535:  # noqa: PLR2004
        raise UserError(f"ADDRESS must be HOST, HOST:PORT or tcp://HOST:PORT, got {text!r}")
    return f"tcp://{match['host']}:{port}"
