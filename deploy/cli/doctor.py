"""`oatmill doctor`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.options import JsonOption, LogLevel, LogLevelOption, print_json


def doctor(
    run_dir: Annotated[Path | None, typer.Argument(metavar="RUN_DIR", help="The run folder. Default: the newest run.")] = None,
    *,
    prometheus: Annotated[
        str | None,
        typer.Option("--prometheus", metavar="URL", help="Read the run from this Prometheus instead of a run folder."),
    ] = None,
    match: Annotated[
        list[str] | None,
        typer.Option("--match", metavar="LABEL=VALUE", help="Selects one of several runs in Prometheus; can be repeated."),
    ] = None,
    as_json: JsonOption = False,
    log_level: LogLevelOption = LogLevel.info,  # noqa: ARG001  (its callback acts)
) -> None:
    """Diagnose a run and suggest settings to try next.

    It reports which loss dominates by value and by gradient, whether entropy, explained variance
    and CMPO's statistics are in their normal ranges, whether actors or learner are the bottleneck,
    and what the red flags mean.
    """
    from deploy.doctor.diagnosis import examine  # noqa: PLC0415
    from deploy.doctor.examined_run import examined_folder  # noqa: PLC0415
    from oatmill.errors import UserError  # noqa: PLC0415
    from runner.folder import find_run, reading  # noqa: PLC0415

    if prometheus is None:
        if match:
            raise UserError("--match selects a run in Prometheus; give its address with --prometheus")
        folder = find_run(run_dir)
        with reading(folder / "metrics.jsonl"):
            run, source = examined_folder(folder), {"run_dir": str(folder)}
            findings = examine(run)
    elif run_dir is not None:
        raise UserError(f"expected a run folder or --prometheus, got both: {run_dir} and {prometheus}")
    else:
        from deploy.doctor.scraped_run import examined_learner  # noqa: PLC0415

        run, source = examined_learner(prometheus, match or ()), {"prometheus": prometheus}
        findings = examine(run)
    healthy = not any(finding.wrong for finding in findings)
    if as_json:
        print_json(source | {"healthy": healthy, "findings": list(map(asdict, findings))})
        return
    typer.echo(run.name)
    if healthy:
        typer.echo("nothing is wrong")
    for finding in findings:
        typer.echo(f"{'WRONG' if finding.wrong else 'note ':<5}  {finding.topic:<16} {finding.text}")
        for setting in finding.tries:
            typer.echo(f"       {'':<16} try {setting}")
