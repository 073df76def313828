"""`oatmill doctor`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.options import JsonOption, LogLevel, LogLevelOption, print_json


def doctor(
    run_dir: Annotated[Path | None, typer.Argument(metavar="RUN_DIR", help="A run's folder; the newest if left out.")] = None,
    *,
    as_json: JsonOption = False,
    log_level: LogLevelOption = LogLevel.info,  # noqa: ARG001  (its callback acts)
) -> None:
    """Say what is wrong with a run, and which setting to try next.

    That is which loss dominates by value and by gradient, whether entropy, explained variance and CMPO's statistics are where
    they should be, and whether actors or the learner are the bottleneck.
    """
    from deploy.doctor import examine  # noqa: PLC0415
    from recipes.run_folder import find_run  # noqa: PLC0415

    folder = find_run(run_dir)
    findings = examine(folder)
    if as_json:
        print_json(
            {"run_dir": str(folder), "healthy": not any(f.wrong for f in findings), "findings": list(map(asdict, findings))}
        )
        return
    typer.echo(f"run {folder}")
    if not any(finding.wrong for finding in findings):
        typer.echo("nothing is wrong")
    for finding in findings:
        typer.echo(f"{'WRONG' if finding.wrong else 'note ':<5}  {finding.topic:<16} {finding.text}")
        for setting in finding.tries:
            typer.echo(f"       {'':<16} try {setting}")
