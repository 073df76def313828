"""`oatmill replay`."""

from __future__ import annotations

from typing import Annotated

import typer

from deploy.cli.options import (
    Assignments,
    ConfigOption,
    InsecureOption,
    KeysOption,
    LogLevel,
    LogLevelOption,
    OptionalRecipe,
    RolePreset,
    RoleRunDir,
)


def replay(
    *,
    run_dir: RoleRunDir,
    recipe: OptionalRecipe = None,
    assignments: Assignments = None,
    listen: Annotated[
        str, typer.Option("--listen", metavar="URL", envvar="OATMILL_LISTEN", help="tcp://HOST[:PORT] or ipc:///FOLDER.")
    ] = "tcp://127.0.0.1:7300",
    insecure: InsecureOption = False,
    keys: KeysOption = None,
    preset: RolePreset = None,
    config: ConfigOption = None,
    log_level: LogLevelOption = LogLevel.info,
) -> None:
    """Run the replay server of a run.

    It receives trajectories from actors, serves batches to the learner, and distributes weights,
    control and metrics.
    """
    from deploy.cli.roles import become, keep_config, role_settings  # noqa: PLC0415
    from runner.local.commands import replay_command  # noqa: PLC0415

    path = keep_config(role_settings(recipe, assignments, preset=preset, config=config), run_dir)
    become(replay_command(path, run_dir, listen=listen, insecure=insecure, log_level=log_level.value, keys=keys), threads=1)
