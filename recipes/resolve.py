"""From a recipe's name and everything that changes its settings to a run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oatmill.errors import UserError
from oatmill.files.run_files import CONFIG_FILE
from oatmill.settings.complaints import show
from recipes.from_environment import recipe_of
from recipes.presets import find_preset
from recipes.recipe import Recipe
from recipes.registry import BUILT_IN, find_recipe
from runner.folder import read_json
from runner.overrides import Layer, command_layers, nested, resolve
from runner.run import Run
from runner.settings import RunSettings, read_config
from runner.trust import check_trust, texts_of


def resolve_run(
    recipe: str | None,
    assignments: Sequence[str] | None,
    *,
    env: str | None = None,
    preset: str | None,
    config: Path | None,
    flags: Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
    resumed: Path | None = None,
    trust: bool = False,
) -> Run:
    """Build the run that a command or a program requests.

    Args:
        recipe: name of a built-in recipe, or `module:function`; None with `env` or `resumed`. A first `key=value` may stand in
            its place.
        assignments: `key=value` as typed.
        env: environment to train on without a recipe, as `recipes.from_environment.recipe_of` takes it.
        preset: name of a preset.
        config: YAML file of settings.
        flags: values by dotted path; None means that the flag was not given.
        settings: values from a program, by dotted path or nested; they override `assignments`.
        resumed: folder of the run to continue; its settings then replace the recipe's.
        trust: whether that folder may name code that neither the recipe nor this command names.

    Raises:
        UserError: if something is wrong; one line.
    """
    check_settings(settings)
    recipe, assignments = recipe_and_assignments(recipe, assignments, optional=env is not None or resumed is not None)
    chosen = find_preset(preset) if resumed is None else {}
    layers = command_layers(preset=chosen, config=config, environ=os.environ, assignments=assignments, flags=flags)
    layers.insert(-1, Layer(nested((settings or {}).items())))
    if resumed is None:
        return new_run(recipe_or_environment(recipe, env), layers, of_env=env is not None, preset=preset)
    asked = None if recipe is None and env is None else recipe_or_environment(recipe, env)
    return continued_run(resumed, layers, asked, of_env=env is not None, preset=preset, trust=trust)


def new_run(recipe: Recipe, layers: Sequence[Layer], *, of_env: bool, preset: str | None) -> Run:
    """A run that begins with the settings of a recipe.

    Args:
        recipe: the recipe, or that of an environment.
        layers: what changes its settings.
        of_env: whether it is that of an environment, whose settings are fitted to its spaces.
        preset: the name of the preset in the layers.
    """
    base = recipe.explicit(layers)
    own = RunSettings.of(base) if of_env else recipe.settings()
    return Run(resolve(base, layers), recipe=recipe.name, preset=preset, base=own)


def continued_run(
    folder: Path, layers: Sequence[Layer], asked: Recipe | None, *, of_env: bool, preset: str | None, trust: bool
) -> Run:
    """A run that continues with the settings of its folder.

    Args:
        folder: the run folder.
        layers: what changes its settings.
        asked: the recipe that the user has named, which must be that of the run.
        of_env: whether it is that of an environment.
        preset: the preset that the user has named, which must be that of the run.
        trust: whether the folder may name code that neither the recipe nor the layers name.
    """
    base, name, preset = resumed_settings(folder, None if asked is None else asked.name, preset)
    recipe = asked or BUILT_IN.get(name)  # nothing that only the folder names is imported
    own = RunSettings.of(base) if recipe is None or of_env else recipe.settings()
    run = Run(resolve(base, layers), recipe=name, preset=preset, base=own)
    run.trainer.keep_batch_size()
    if not trust:
        named = [] if recipe is None else [recipe.settings().to_dict()]
        check_trust(run.settings, folder, trust=False, known=set(texts_of([*named, *(layer.values for layer in layers)])))
    return run


def check_settings(settings: object) -> None:
    """Raise a UserError unless a program's settings are a mapping of names to values, or None."""
    if not isinstance(settings, Mapping | None):
        raise UserError(f'settings must be a mapping such as {{"trainer.gamma": 0.9}}, got {type(settings).__name__}')
    if wrong := [name for name in settings or () if not isinstance(name, str)]:
        raise UserError(f"the names of settings must be text, such as trainer.gamma, got {show(wrong[0])}")


def recipe_and_assignments(
    recipe: str | None, assignments: Sequence[str] | None, *, optional: bool
) -> tuple[str | None, list[str]]:
    """The recipe and the settings of a command. A first `key=value` may stand in the place of an optional recipe."""
    if optional and recipe is not None and "=" in recipe:
        return None, [recipe, *(assignments or ())]
    return recipe, list(assignments or ())


def recipe_or_environment(recipe: str | None, env: str | None) -> Recipe:
    """The recipe that a command names, or that of the environment of `--env`.

    Raises:
        UserError: if there is none, or both are named.
    """
    if recipe is not None and env is not None:
        raise UserError(
            f"expected a recipe or an environment, got both ({recipe} and --env {env}); leave one out: the environment of a "
            "recipe is changed with env.id and other settings"
        )
    if env is not None:
        if (name := env.replace("-", "_")) in BUILT_IN:
            raise UserError(f"expected an environment, got {env}, which is a recipe; write {name}, without --env")
        return recipe_of(env)
    if recipe is None:
        raise UserError("Missing argument 'RECIPE': expected a recipe or --env (`oatmill recipes` lists the recipes)")
    return find_recipe(recipe)


def resumed_settings(folder: Path, recipe: str | None, preset: str | None) -> tuple[dict[str, Any], str, str | None]:
    """The settings, the recipe and the preset of a run that is continued.

    Args:
        folder: the run folder.
        recipe: name of a recipe or environment; None for that of the run.
        preset: name of a preset; None for that of the run.

    Raises:
        UserError: if the run has another recipe or another preset.
    """
    identity = read_json(folder / "run.json")
    for name, asked in (("recipe", recipe), ("preset", preset)):
        was = identity.get(name)
        if asked is not None and name in identity and asked != was:
            raise UserError(
                f"--resume: {folder} is a run of {name} {was or 'none'}, got {asked}; a run cannot change its recipe or preset"
            )
    settings = read_config(folder / CONFIG_FILE).explicit()
    return settings, recipe or identity.get("recipe") or "own", identity.get("preset")
