"""`oatmill actor`."""

from __future__ import annotations

from typing import Annotated

import typer

from deploy.cli.options import (
    AddressOption,
    Assignments,
    ConfigOption,
    KeysOption,
    LogLevel,
    LogLevelOption,
    OptionalRecipe,
    RolePreset,
)


def actor(
    *,
    address: AddressOption,
    recipe: OptionalRecipe = None,
    assignments: Assignments = None,
    actor_id: Annotated[
        int | None, typer.Option("--actor-id", metavar="I", min=0, help="This actor's number; chosen by the hub if left out.")
    ] = None,
    keys: KeysOption = None,
    preset: RolePreset = None,
    config: ConfigOption = None,
    log_level: LogLevelOption = LogLevel.info,
) -> None:
    """Run one actor.

    It steps environments and sends trajectories to the run's replay server.
    """
    from deploy.cli.roles import become, pass_config, role_settings  # noqa: PLC0415
    from oatmill.children.family import guard_this_process  # noqa: PLC0415
    from runner.local.commands import actor_command  # noqa: PLC0415

    settings = role_settings(recipe, assignments, preset=preset, config=config)
    command = actor_command(pass_config(settings), address=address, number=actor_id, log_level=log_level.value, keys=keys)
    guard_this_process()  # processes that its environments start end with it
    become(command, threads=1)
