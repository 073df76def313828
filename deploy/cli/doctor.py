"""`oatmill doctor`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.cli.groups import OneRun
from deploy.cli.options import JsonOption, print_json
from oatmill.files.run_files import METRICS_FILE

if TYPE_CHECKING:
    from deploy.doctor.findings import Finding


def doctor(
    *,
    run: OneRun,
    prometheus: Annotated[
        str | None,
        typer.Option("--prometheus", metavar="URL", help="Read the run from this Prometheus instead of a run folder."),
    ] = None,
    match: Annotated[
        list[str] | None,
        typer.Option("--match", metavar="LABEL=VALUE", help="Selects one of several runs in Prometheus; can be repeated."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Diagnose a run and suggest settings to try next.

    It reports whether the run failed or was killed, which processes crashed and why, whether data or
    checkpoints were lost, which loss dominates by value and by gradient, whether entropy, explained
    variance and CMPO's statistics are in their normal ranges, whether actors or learner are the
    bottleneck, and what the red flags mean.
    """
    from deploy.doctor.diagnosis import examine  # noqa: PLC0415
    from deploy.doctor.examined_run import examined_folder  # noqa: PLC0415
    from oatmill.errors import UserError  # noqa: PLC0415
    from runner.folder import find_run, reading  # noqa: PLC0415

    wanted = run.folder
    if prometheus is None:
        if match:
            raise UserError("--match selects a run in Prometheus; give its address with --prometheus")
        folder = find_run(wanted)
        with reading(folder / METRICS_FILE):
            examined, source = examined_folder(folder), {"run_dir": str(folder)}
            findings = examine(examined)
    elif wanted is not None:
        raise UserError(f"expected a run folder or --prometheus, got both: {wanted} and {prometheus}")
    else:
        from deploy.doctor.scraped_run import examined_learner  # noqa: PLC0415

        examined, source = examined_learner(prometheus, match or ()), {"prometheus": prometheus}
        findings = examine(examined)
    healthy = not any(finding.wrong for finding in findings)
    if as_json:
        print_json(source | {"healthy": healthy, "findings": list(map(asdict, findings))})
        return
    typer.echo(examined.name)
    typer.echo(verdict(findings))
    for finding in findings:
        typer.echo(f"{'WRONG' if finding.wrong else 'note ':<5}  {finding.topic:<16} {finding.text}")
        for setting in finding.tries:
            typer.echo(f"       {'':<16} try {setting}")


def verdict(findings: Sequence[Finding]) -> str:
    """The first line: how much needs a change, and how much is only worth knowing."""
    wrong = sum(finding.wrong for finding in findings)
    advice = sum(bool(finding.tries) or finding.topic == "red flag" for finding in findings if not finding.wrong)
    words = f"{wrong} problem{'' if wrong == 1 else 's'} found" if wrong else "no problems found"
    return f"{words}, {advice} note{'' if advice == 1 else 's'} with advice" if advice else words
