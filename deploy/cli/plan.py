"""`oatmill plan`."""

from __future__ import annotations

import typer

from deploy.cli.options import (
    ActorsOption,
    Assignments,
    ConfigOption,
    JsonOption,
    LearnersOption,
    LogLevel,
    LogLevelOption,
    PresetOption,
    RecipeArgument,
    SeedOption,
    print_json,
    resolve_run,
    seeds,
)


def plan(
    *,
    recipe: RecipeArgument,
    assignments: Assignments = None,
    actors: ActorsOption = None,
    learners: LearnersOption = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    seed: SeedOption = None,
    as_json: JsonOption = False,
    log_level: LogLevelOption = LogLevel.info,  # noqa: ARG001  (its callback acts)
) -> None:
    """Show what a run would do; start nothing.

    That is its settings, the order of the losses, what each reads and writes, trains and costs, and what every `auto` comes to.
    """
    flags = {"actors.count": actors, "trainer.learners": learners, **seeds(seed)}
    report = resolve_run(recipe, assignments, preset=preset, config=config, flags=flags).plan()
    if as_json:
        print_json(report.to_dict())
    else:
        typer.echo(report.to_text(cost=True), nl=False)
