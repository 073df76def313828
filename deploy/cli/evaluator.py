"""`oatmill evaluator`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.options import LogLevel, LogLevelOption, TrustOption
from oatmill.files.run_files import CONFIG_FILE


def evaluator(
    *,
    run_dir: Annotated[
        Path,
        typer.Option("--run-dir", metavar="DIR", envvar="OATMILL_RUN_DIR", help="The run folder, shared with the learner."),
    ],
    trust: TrustOption = False,
    in_container: Annotated[
        bool,
        typer.Option(
            "--in-container",
            help="Wait for the learner to create the run folder, and for more checkpoints after the run's end.",
        ),
    ] = False,
    log_level: LogLevelOption = LogLevel.info,
) -> None:
    """Run the evaluator: play the checkpoints of a run folder with fixed seeds until the run ends.

    `oatmill train` and `oatmill cluster up` start one with evaluator.enabled=true. If the roles are started one by one, set it
    for the learner, too.
    """
    from deploy.cli.roles import become  # noqa: PLC0415
    from oatmill.children.family import guard_this_process  # noqa: PLC0415
    from runner.folder import find_run  # noqa: PLC0415
    from runner.local.commands import evaluator_command  # noqa: PLC0415

    folder = run_dir.absolute() if in_container else find_run(run_dir)
    guard_this_process()  # processes that its environments start end with it
    level = log_level.value
    command = evaluator_command(folder / CONFIG_FILE, folder, log_level=level, trust=trust, in_container=in_container)
    become(command, threads=1)
