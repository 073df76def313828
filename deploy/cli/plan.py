"""`oatmill plan`."""

from __future__ import annotations

import contextlib
import sys

import typer

from deploy.cli.groups import TrainingOptions
from deploy.cli.options import JsonOption, print_json


def plan(*, training: TrainingOptions, as_json: JsonOption = False) -> None:
    """Show what a run would do, without starting it.

    It shows the settings, the choice for every `auto`, the losses in order with their inputs and
    outputs, and the cost. The environment is built, reset and stepped a few times.
    """
    with contextlib.redirect_stdout(sys.stderr):  # a user's own code may print
        report = training.resolve().plan()
        shown = report.to_dict() if as_json else report.to_text(cost=True)
    if isinstance(shown, str):
        typer.echo(shown, nl=False)
    else:
        print_json(shown)
