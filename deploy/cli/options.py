"""Options that several commands share, and what they come to."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from recipes.launch import Run


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


def resolve_run(
    recipe: str,
    assignments: Sequence[str] | None,
    *,
    preset: str | None,
    config: Path | None,
    flags: Mapping[str, Any],
    resumed: Path | None = None,
    trust: bool = False,
) -> Run:
    """The run that a command line asks for.

    Args:
        recipe: a built-in name, or `module:function`.
        assignments: `key=value` as typed.
        preset: a preset's name.
        config: a YAML file of settings.
        flags: values by dotted path; None stands for a flag that was not given.
        resumed: the folder of the run to go on with, whose settings then stand for the recipe's.
        trust: whether that folder may name code which neither the recipe nor this command names.

    Raises:
        UserError: one line about what is wrong.
    """
    from recipes.launch import Run  # noqa: PLC0415
    from recipes.overrides import command_layers, resolve  # noqa: PLC0415
    from recipes.presets import find_preset  # noqa: PLC0415
    from recipes.registry import find_recipe  # noqa: PLC0415
    from recipes.trust import check_trust, texts_of  # noqa: PLC0415

    found = find_recipe(recipe)
    chosen = find_preset(preset)
    if resumed is not None:
        base, preset = resumed_settings(resumed, recipe, preset)
        chosen = {}
    else:
        base = found.settings().explicit()
    layers = command_layers(preset=chosen, config=config, environ=os.environ, assignments=assignments or (), flags=flags)
    run = Run(resolve(base, layers), recipe=found.name, preset=preset)
    if resumed is not None and not trust:
        known = texts_of([found.settings().to_dict(), *(layer.values for layer in layers)])
        check_trust(run.settings, resumed, trust=False, known=set(known))
    return run


def resumed_settings(folder: Path, recipe: str, preset: str | None) -> tuple[dict[str, Any], str | None]:
    """The settings and the preset of a run that is gone on with.

    Raises:
        UserError: if it is another recipe's run, or has another preset.
    """
    from protocol.errors import UserError  # noqa: PLC0415
    from recipes.run_folder import read_json  # noqa: PLC0415
    from recipes.settings import read_config  # noqa: PLC0415

    identity = read_json(folder / "run.json")
    for name, asked in (("recipe", recipe), ("preset", preset)):
        was = identity.get(name)
        if asked is not None and name in identity and asked != was:
            raise UserError(
                f"--resume: {folder} is a run of {name} {was or 'none'}, got {asked}; a run goes on with what it began with"
            )
    return read_config(folder / "config.yaml").explicit(), identity.get("preset")


def seeds(seed: int | None) -> dict[str, int | None]:
    """What `--seed` sets."""
    return {"trainer.seed": seed, "actors.seed": seed}


def print_json(content: Any) -> None:
    """Write JSON to stdout."""
    typer.echo(json.dumps(content, indent=2, allow_nan=False))
