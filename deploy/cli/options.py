"""Options that several commands share."""

from __future__ import annotations

import json
import logging
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from deploy.cli.completion import complete_assignment, complete_recipe
from recipes.presets import PRESETS


class LogLevel(StrEnum):
    """The lowest level of log messages that are shown."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


def configure_logging(level: LogLevel) -> LogLevel:
    """Log to stderr; at level debug, errors show their traceback."""
    logging.basicConfig(level=level.value.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    return level


RecipeOrNone = Annotated[
    str | None,
    typer.Argument(
        metavar="[RECIPE]",
        help="A built-in recipe, or module:function; not needed with --env.",
        autocompletion=complete_recipe,
    ),
]
EnvOption = Annotated[
    str | None,
    typer.Option(
        "--env",
        metavar="ID",
        help="Train on an environment, without a recipe: CartPole-v1, KIND:ID such as atari:pong, or module:function.",
    ),
]
OptionalRecipe = Annotated[
    str | None,
    typer.Argument(
        metavar="[RECIPE]",
        envvar="OATMILL_RECIPE",
        help="A built-in recipe, or module:function; may be left out with --config.",
        autocompletion=complete_recipe,
    ),
]
Assignments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Settings, such as trainer.losses.cmpo.enabled=true.",
        autocompletion=complete_assignment,
    ),
]
PRESET_HELP = f"Losses to turn on: {', '.join(PRESETS)}."
PresetOption = Annotated[str | None, typer.Option("--preset", metavar="NAME", help=PRESET_HELP)]
RolePreset = Annotated[str | None, typer.Option("--preset", metavar="NAME", envvar="OATMILL_PRESET", help=PRESET_HELP)]
ConfigOption = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="A YAML file of settings.")]
ActorsOption = Annotated[int | None, typer.Option("--actors", metavar="N", help="Number of actor processes (actors.count).")]
LearnersOption = Annotated[
    int | None, typer.Option("--learners", metavar="M", help="Number of learner ranks (trainer.learners).")
]
SeedOption = Annotated[int | None, typer.Option("--seed", metavar="S", help="Seed of trainer and actors.")]
RunArgument = Annotated[
    Path | None, typer.Argument(metavar="[RUN]", help="The run folder, as --run-dir. Default: the newest run.")
]
CheckpointArgument = Annotated[
    Path | None,
    typer.Argument(metavar="[CHECKPOINT]", help="A run folder, or a checkpoint (step-N folder). Default: the newest run."),
]
RunDirOption = Annotated[Path | None, typer.Option("--run-dir", metavar="DIR", help="The run folder. Default: the newest run.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON to stdout and everything else to stderr.")]
LogLevelOption = Annotated[
    LogLevel, typer.Option("--log-level", callback=configure_logging, help="Log level of all processes.")
]
TrustOption = Annotated[
    bool, typer.Option("--trust", help="Run code that the folder's settings name. Use it only for folders that you trust.")
]
InsecureOption = Annotated[bool, typer.Option("--insecure", help="Listen on the network without keys.")]
KeysOption = Annotated[
    Path | None,
    typer.Option(
        "--keys",
        metavar="DIR",
        envvar="OATMILL_KEYS",
        help="Keys from `oatmill keygen`: DIR, or this role's folder in it.",
    ),
]
RoleRunDir = Annotated[Path, typer.Option("--run-dir", metavar="DIR", envvar="OATMILL_RUN_DIR", help="The run folder.")]
AddressOption = Annotated[
    str,
    typer.Option("--address", metavar="URL", envvar="OATMILL_ADDRESS", help="The run's control address, tcp://HOST:7302."),
]
HubOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="URL",
        envvar="OATMILL_ADDRESS",
        help="A cluster's control address, tcp://HOST:7302, instead of a run folder.",
    ),
]


def one_folder(run: Path | None, run_dir: Path | None) -> Path | None:
    """The run's folder, which may be given as an argument or by --run-dir; None if it is left out.

    Raises:
        UserError: if both are given.
    """
    if run is not None and run_dir is not None:
        from oatmill.errors import UserError  # noqa: PLC0415

        raise UserError(f"give the run's folder once: got {run} and --run-dir {run_dir}")
    return run if run_dir is None else run_dir


def print_json(content: Any) -> None:
    """Write JSON to stdout."""
    typer.echo(json.dumps(content, indent=2, allow_nan=False))
