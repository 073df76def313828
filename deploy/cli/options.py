"""Options that several commands share, and what they come to."""

from __future__ import annotations

import json
import logging
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer


class LogLevel(StrEnum):
    """How much is logged."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


def configure_logging(level: LogLevel) -> LogLevel:
    """Log to stderr, one line a record; with debug, errors show their traceback."""
    logging.basicConfig(level=level.value.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    return level


RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="A built-in recipe, or module:function.")]
RecipeOrNone = Annotated[
    str | None, typer.Argument(metavar="[RECIPE]", help="A built-in recipe, or module:function; left out with --env.")
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
    ),
]
Assignments = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings, such as trainer.losses.cmpo.enabled=true."),
]
PresetOption = Annotated[
    str | None, typer.Option("--preset", metavar="NAME", help="Losses to turn on: conservative or aggressive.")
]
RolePreset = Annotated[
    str | None,
    typer.Option("--preset", metavar="NAME", envvar="OATMILL_PRESET", help="Losses to turn on: conservative or aggressive."),
]
ConfigOption = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="A YAML file of settings.")]
ActorsOption = Annotated[int | None, typer.Option("--actors", metavar="N", help="Actor processes (actors.count).")]
LearnersOption = Annotated[int | None, typer.Option("--learners", metavar="M", help="Learner ranks (trainer.learners).")]
SeedOption = Annotated[int | None, typer.Option("--seed", metavar="S", help="Of trainer and actors.")]
RunDirOption = Annotated[
    Path | None, typer.Option("--run-dir", metavar="DIR", help="The run's folder; the newest run's if left out.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, everything else on stderr.")]
LogLevelOption = Annotated[
    LogLevel, typer.Option("--log-level", callback=configure_logging, help="How much the processes log.")
]
TrustOption = Annotated[
    bool, typer.Option("--trust", help="Run the code that the folder's settings name; only if you trust whoever made it.")
]
InsecureOption = Annotated[bool, typer.Option("--insecure", help="Listen beyond this machine without keys.")]
KeysOption = Annotated[
    Path | None,
    typer.Option(
        "--keys",
        metavar="DIR",
        envvar="OATMILL_KEYS",
        help="Keys that `oatmill keygen` has made: DIR, or its folder of this role.",
    ),
]
RoleRunDir = Annotated[Path, typer.Option("--run-dir", metavar="DIR", envvar="OATMILL_RUN_DIR", help="The run's folder.")]
AddressOption = Annotated[
    str,
    typer.Option("--address", metavar="URL", envvar="OATMILL_ADDRESS", help="The run's control address, tcp://HOST:7302."),
]
HubOption = Annotated[
    str | None,
    typer.Option(
        "--address", metavar="URL", envvar="OATMILL_ADDRESS", help="A cluster's control address instead, tcp://HOST:7302."
    ),
]


def seeds(seed: int | None) -> dict[str, int | None]:
    """What `--seed` sets."""
    return {"trainer.seed": seed, "actors.seed": seed}


def print_json(content: Any) -> None:
    """Write JSON to stdout."""
    typer.echo(json.dumps(content, indent=2, allow_nan=False))
