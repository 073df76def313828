"""`oatmill replay`."""

from __future__ import annotations

from typing import Annotated

import typer

from deploy.cli.groups import RoleOptions
from deploy.cli.options import InsecureOption, RoleRunDir


def replay(
    *,
    run_dir: RoleRunDir,
    role: RoleOptions,
    listen: Annotated[
        str, typer.Option("--listen", metavar="URL", envvar="OATMILL_LISTEN", help="tcp://HOST[:PORT] or ipc:///FOLDER.")
    ] = "tcp://127.0.0.1:7300",
    insecure: InsecureOption = False,
) -> None:
    """Run the replay server of a run.

    It receives trajectories from actors, serves batches to the learner, and distributes weights,
    control and metrics.
    """
    from deploy.cli.roles import become, keep_config, role_settings  # noqa: PLC0415
    from runner.local.commands import replay_command  # noqa: PLC0415

    path, level = keep_config(role_settings(role), run_dir), role.log_level.value
    become(replay_command(path, run_dir, listen=listen, insecure=insecure, log_level=level, keys=role.keys), threads=1)
