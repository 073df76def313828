"""`oatmill learner`."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from deploy.cli.groups import RoleOptions
from deploy.cli.options import AddressOption, RoleRunDir
from oatmill.files.run_files import LEARNER_FILE


def learner(
    *,
    address: AddressOption,
    run_dir: RoleRunDir,
    role: RoleOptions,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the run folder's newest checkpoint.")] = False,
    in_container: Annotated[
        bool,
        typer.Option(
            "--in-container",
            help="Continue from the newest checkpoint if there is one, exit with 0 after SIGTERM, and end the run when done.",
        ),
    ] = False,
) -> None:
    """Run the learner: all its ranks, or one of them if RANK and WORLD_SIZE are set."""
    from deploy.cli.roles import become, keep_config, role_settings, watch_over  # noqa: PLC0415
    from runner.continuing import has_checkpoint  # noqa: PLC0415
    from runner.local.commands import learner_command  # noqa: PLC0415

    settings = role_settings(role)
    trainer = settings.trainer
    ranks = 1 if "RANK" in os.environ else trainer.learners
    path = keep_config(settings, run_dir)
    (run_dir / LEARNER_FILE).unlink(missing_ok=True)  # of a part of the run that has ended: an evaluator takes it for the end
    resume = resume or (in_container and has_checkpoint(run_dir))
    level, keys = role.log_level.value, role.keys
    command = learner_command(path, run_dir, address=address, ranks=ranks, resume=resume, log_level=level, keys=keys)
    if in_container:
        raise typer.Exit(watch_over(command, settings, address=address, keys=keys))
    become(command, threads=trainer.first_threads)
