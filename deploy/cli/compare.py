"""`oatmill compare`."""

from __future__ import annotations

import importlib.util
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from deploy.cli.options import Assignments, EnvOption, JsonOption, LogLevel, LogLevelOption, RecipeOrNone, print_json

if TYPE_CHECKING:
    from deploy.comparison.runs import Cell
    from runner.observer import Observer

ARMS = "baseline,muesli,muesli_cmpo,full"
ArmsOption = Annotated[
    str, typer.Option("--arms", metavar="NAMES", help="The guide's arms or presets, separated by commas; '' for none.")
]
ArmOption = Annotated[
    list[str] | None,
    typer.Option(
        "--arm",
        metavar="NAME=KEY=VALUE,...",
        help="Your own arm, by the settings it changes; preset=NAME adds a preset's. Can be repeated.",
    ),
]
OutOption = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Folder for runs and report. Default: runs/compare-RECIPE.")
]


class Lines:
    """Writes the progress of a comparison and of its runs.

    Args:
        output: the output stream.
    """

    def __init__(self, output: TextIO) -> None:
        self._output = output

    def begins(self, cell: Cell, number: int, total: int) -> Observer:
        """See `deploy.comparison.runs.Watcher`."""
        from deploy.cli.display import observer_for  # noqa: PLC0415

        self._say(f"run {number} of {total}: {cell.arm}, seed {cell.seed}")
        return observer_for(self._output)

    def kept(self, cell: Cell, number: int, total: int) -> None:
        """See `deploy.comparison.runs.Watcher`."""
        self._say(f"run {number} of {total}: {cell.arm}, seed {cell.seed} was finished before")

    def failed(self, cell: Cell, message: str) -> None:
        """See `deploy.comparison.runs.Watcher`."""
        self._say(f"{cell.arm}, seed {cell.seed} failed: {message}")

    def _say(self, text: str) -> None:
        print(text, file=self._output, flush=True)


def check_packages() -> None:
    """Check that the report's packages are installed.

    Raises:
        UserError: if one is missing.
    """
    from deploy.curves import figure_class  # noqa: PLC0415
    from oatmill.errors import UserError  # noqa: PLC0415

    figure_class()
    if importlib.util.find_spec("scipy") is None:
        raise UserError("comparing needs scipy; pip install 'oatmill[plot]'")


def compare(
    *,
    recipe: RecipeOrNone = None,
    assignments: Assignments = None,
    env: EnvOption = None,
    arms: ArmsOption = ARMS,
    arm: ArmOption = None,
    seeds: Annotated[int, typer.Option("--seeds", metavar="N", min=1, help="Runs per arm, with seeds 0 to N - 1.")] = 3,
    out: OutOption = None,
    as_json: JsonOption = False,
    log_level: LogLevelOption = LogLevel.info,
) -> None:
    """Train with several arms (sets of settings) and seeds, and report which arms differ.

    All runs have the same recipe, or the same environment (--env). The runs of all arms and seeds are
    executed one after another. Finished runs are kept: the same command continues after Ctrl-C, and more
    --seeds or arms add runs. The report is report.html (one file) and report.md. Needs oatmill[plot].

    KEY=VALUE applies to all arms; an arm's own settings override it.
    """
    from deploy.comparison.arms import find_arms  # noqa: PLC0415
    from deploy.comparison.runs import check_plans, make_comparison, run_cells  # noqa: PLC0415
    from oatmill.errors import RunError  # noqa: PLC0415
    from recipes.resolve import recipe_and_assignments, recipe_or_environment  # noqa: PLC0415
    from runner.overrides import command_layers  # noqa: PLC0415

    check_packages()  # before hours of training
    recipe, assignments = recipe_and_assignments(recipe, assignments, optional=env is not None)
    common = command_layers(preset={}, config=None, environ=os.environ, assignments=assignments, flags={})
    from deploy.comparison.report import write_report  # noqa: PLC0415
    from deploy.comparison.results import collect  # noqa: PLC0415

    found = recipe_or_environment(recipe, env)
    comparison = make_comparison(found, find_arms(arms, arm or ()), seeds=seeds, common=common, out=out)
    check_plans(comparison)
    output = sys.stderr if as_json else sys.stdout
    try:
        failures = run_cells(comparison, Lines(output), log_level=log_level.value)
    except KeyboardInterrupt:
        done = sum(cell.finished for cell in comparison.cells)
        typer.echo(f"stopped with {done} of {len(comparison.cells)} runs finished; the same command continues", err=True)
        raise
    command = ["oatmill", "compare", *shlex.split(found.argument), *(["--arms", arms] if arms != ARMS else [])]
    command += ["--seeds", str(seeds), *assignments]
    command += [word for text in arm or () for word in ("--arm", text)]
    report = write_report(collect(comparison), command)
    for line in ["", *(text.replace("**", "") for text in report["verdict"]), f"report          {comparison.out}/report.html"]:
        typer.echo(line, err=as_json)
    if as_json:
        print_json(report)
    if failures:
        raise RunError(
            f"{len(failures)} of {len(comparison.cells)} runs failed: {failures[0]}; the same command runs them again"
        )
