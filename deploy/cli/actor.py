"""`oatmill actor`."""

from __future__ import annotations

from typing import Annotated

import typer

from deploy.cli.groups import RoleOptions
from deploy.cli.options import AddressOption


def actor(
    *,
    address: AddressOption,
    role: RoleOptions,
    actor_id: Annotated[
        int | None, typer.Option("--actor-id", metavar="I", min=0, help="This actor's number; chosen by the hub if left out.")
    ] = None,
) -> None:
    """Run one actor.

    It steps environments and sends trajectories to the run's replay server.
    """
    from deploy.cli.roles import become, pass_config, role_settings  # noqa: PLC0415
    from oatmill.children.family import guard_this_process  # noqa: PLC0415
    from runner.local.commands import actor_command  # noqa: PLC0415

    config = pass_config(role_settings(role))
    command = actor_command(config, address=address, number=actor_id, log_level=role.log_level.value, keys=role.keys)
    guard_this_process()  # processes that its environments start end with it
    become(command, threads=1)
