"""`oatmill plan`."""

from __future__ import annotations

import contextlib
import sys

import typer

from deploy.cli.options import (
    ActorsOption,
    Assignments,
    ConfigOption,
    EnvOption,
    JsonOption,
    LearnersOption,
    LogLevel,
    LogLevelOption,
    PresetOption,
    RecipeOrNone,
    SeedOption,
    print_json,
    seeds,
)


def plan(
    *,
    recipe: RecipeOrNone = None,
    assignments: Assignments = None,
    env: EnvOption = None,
    actors: ActorsOption = None,
    learners: LearnersOption = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    seed: SeedOption = None,
    as_json: JsonOption = False,
    log_level: LogLevelOption = LogLevel.info,  # noqa: ARG001  (its callback acts)
) -> None:
    """Show what a run would do, without starting it.

    It shows the settings, the choice for every `auto`, the losses in order with their inputs and
    outputs, and the cost.
    """
    from recipes.resolve import resolve_run  # noqa: PLC0415

    flags = {"actors.count": actors, "trainer.learners": learners, **seeds(seed)}
    with contextlib.redirect_stdout(sys.stderr):  # a user's own code may print
        report = resolve_run(recipe, assignments, env=env, preset=preset, config=config, flags=flags).plan()
        shown = report.to_dict() if as_json else report.to_text(cost=True)
    if isinstance(shown, str):
        typer.echo(shown, nl=False)
    else:
        print_json(shown)
