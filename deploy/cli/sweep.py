"""`oatmill sweep`."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from deploy.cli.options import Assignments, EnvOption, JsonOption, LogLevel, LogLevelOption, RecipeOrNone, print_json

if TYPE_CHECKING:
    from deploy.sweep.study import Sweep


class Sampler(StrEnum):
    """The samplers of `deploy.sweep.study`."""

    tpe = "tpe"
    random = "random"
    qmc = "qmc"
    gp = "gp"


class Pruner(StrEnum):
    """The pruners of `deploy.sweep.study`."""

    median = "median"
    hyperband = "hyperband"
    none = "none"


class Metric(StrEnum):
    """What a sweep maximises."""

    episode_return = "episode_return"
    eval_return = "eval_return"


def sweep(
    *,
    recipe: RecipeOrNone = None,
    assignments: Assignments = None,
    env: EnvOption = None,
    param: Annotated[
        list[str],
        typer.Option("--param", metavar="KEY=RANGE", help="LOW..HIGH, LOW..HIGH:log, or [A, B, C]; can be repeated."),
    ],
    trials: Annotated[
        int, typer.Option("--trials", metavar="N", min=1, help="Total number of trials, including earlier ones.")
    ] = 20,
    seeds: Annotated[int, typer.Option("--seeds", metavar="N", min=1, help="Runs per trial, with seeds 0 to N - 1.")] = 1,
    sampler: Annotated[Sampler, typer.Option("--sampler", help="Optuna's sampler, which chooses the values.")] = Sampler.tpe,
    pruner: Annotated[Pruner, typer.Option("--pruner", help="Optuna's pruner, which ends bad trials early.")] = Pruner.median,
    metric: Annotated[
        Metric, typer.Option("--metric", help="The return to maximise: of the actors, or of an evaluator.")
    ] = Metric.episode_return,
    seed: Annotated[int, typer.Option("--seed", metavar="S", min=0, help="Seed of the sampler.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder for trials and report. Default: runs/sweep-RECIPE.")
    ] = None,
    as_json: JsonOption = False,
    log_level: LogLevelOption = LogLevel.info,
) -> None:
    """Search for good settings for a recipe or an environment (--env) with Optuna.

    Trials run one after another. After Ctrl-C or a crash, the same command continues and resumes the
    interrupted run from its newest checkpoint; more --trials add trials. The best settings are written to
    best.yaml, a file for --config, and all trials to report.html. Needs oatmill[sweep].
    """
    from deploy.curves import figure_class  # noqa: PLC0415
    from deploy.sweep.report import lines_of  # noqa: PLC0415
    from deploy.sweep.space import parse_parameter  # noqa: PLC0415
    from deploy.sweep.study import make_sweep, open_study  # noqa: PLC0415
    from recipes.resolve import recipe_and_assignments, recipe_or_environment  # noqa: PLC0415
    from runner.overrides import command_layers  # noqa: PLC0415

    figure_class()  # before hours of training
    output = sys.stderr if as_json else sys.stdout
    recipe, assignments = recipe_and_assignments(recipe, assignments, optional=env is not None)
    common = command_layers(preset={}, config=None, environ=os.environ, assignments=assignments, flags={})
    parameters = [parse_parameter(text) for text in param]
    made = make_sweep(recipe_or_environment(recipe, env), parameters, common, seeds=seeds, metric=metric.value, out=out)
    study = open_study(made, sampler=sampler.value, pruner=pruner.value, seed=seed)
    found = searched(made, study, trials=trials, output=output, log_level=log_level.value)
    for line in ["", *lines_of(found, made.out, made.recipe.argument)]:
        print(line, file=output)
    if as_json:
        print_json(found | {"out": str(made.out)})


def searched(made: Sweep, study: Any, *, trials: int, output: TextIO, log_level: str) -> dict[str, Any]:
    """Run the trials and write what was found, also if they are interrupted; returns the best trial.

    Raises:
        RunError: if no trial was completed.
    """
    from deploy.cli.display import observer_for  # noqa: PLC0415
    from deploy.sweep.report import write_results  # noqa: PLC0415
    from deploy.sweep.study import Trials  # noqa: PLC0415
    from oatmill.errors import RunError  # noqa: PLC0415

    def say(text: str) -> None:
        print(text, file=output, flush=True)

    try:
        Trials(made, study, observer=lambda _title: observer_for(output), say=say, log_level=log_level).run(trials)
    except KeyboardInterrupt:
        finished = sum(trial.state.is_finished() for trial in study.trials)
        typer.echo(f"stopped after {finished} of {trials} trials; the same command continues", err=True)
        write_results(made, study)  # takes seconds, so the user has been told already
        raise
    found = write_results(made, study)
    if found is None:
        raise RunError(f"none of {len(study.trials)} trials was completed; their logs are in {made.out / 'trials'}")
    return found
