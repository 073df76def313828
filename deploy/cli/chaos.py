"""`oatmill chaos`."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from deploy.cli.options import Assignments, JsonOption, print_json


def chaos(
    *,
    recipe: Annotated[str, typer.Argument(metavar="[RECIPE]", help="A built-in recipe, or module:function.")] = "cartpole",
    assignments: Assignments = None,
    seconds: Annotated[
        float, typer.Option("--seconds", metavar="S", min=1, help="For how many seconds faults are injected.")
    ] = 60,
    kill: Annotated[
        str, typer.Option("--kill", metavar="ROLES", help="Roles to kill and stop: some of replay, actor, learner.")
    ] = "replay,actor,learner",
    fault: Annotated[
        str,
        typer.Option(
            "--fault",
            metavar="KINDS",
            help="Faults: some of kill, stop, supervisor (stop it), slow (slow an actor down), disk (fill it), flood (many "
            "connections), flip (a bit of the log), clock (change the time); or all.",
        ),
    ] = "kill,stop",
    seed: Annotated[int, typer.Option("--seed", metavar="S", min=0, help="Seed of the schedule and of the run.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Inject faults into a real run: kill and stop its processes, fill its disk, and more.

    The run continues to train. The exit code is 1 if its ledger does not balance at the end, or if
    trajectories were lost without an event that reports it. Only a flipped bit may lose
    trajectories. `disk` mounts a small file system, so it needs root.
    """
    from runner.chaos.chaos import KINDS, Chaos, chaos_command  # noqa: PLC0415

    place = Path(tempfile.mkdtemp(prefix="oatmill-chaos-"))
    kinds = KINDS if fault == "all" else names(fault)
    command = chaos_command(recipe, assignments or (), place / "run", seed=seed, kinds=kinds)
    report = Chaos(command, place / "run", names(kill), seconds, seed, place / "output.log", kinds).run()
    if as_json:
        print_json(report)
    else:
        for line in report_lines(report):
            typer.echo(line)
    if not report["good"]:
        raise typer.Exit(1)


def names(text: str) -> list[str]:
    """Split a comma-separated list."""
    return [name.strip() for name in text.split(",") if name.strip()]


def report_lines(report: Mapping[str, Any]) -> list[str]:
    """The report as text."""
    faults = ", ".join(f"{name} {count}" for name, count in report["faults"].items())
    lines = [f"faults survived {report['faults_survived']} ({faults or 'none'}), seed {report['seed']}"]
    for role, times in report["recovery_seconds"].items():
        lines.append(
            f"{role + ' recovery ':<29}p50 {times['p50']:.2f} s, p99 {times['p99']:.2f} s, longest {times['max']:.2f} s"
        )
    lines.append(f"trajectories     {report['produced']} produced, {report['accounted']} accounted for, {report['lost']} lost")
    if report["lost"]:
        lines.append(
            f"of these         {report['lost_in_silence']} without an event; {report['damage_reported']} events report damage"
        )
    lines.append(f"longest wait     {report['longest_gap_seconds']:.2f} s between two learner steps")
    lines.append(f"run folder       {report['run_dir']}")
    verdict = "good" if report["good"] else f"BAD: the run ended with {report['exit_code']}, ledger {report['ledger']}"
    return [*lines, f"verdict          {verdict}"]
