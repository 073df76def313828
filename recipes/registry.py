"""Finds a recipe by its name, or by `module:function`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from oatmill.errors import OatmillError, UserError, one_line
from oatmill.settings.complaints import nearest
from oatmill.user_modules import load_function
from recipes import (
    atari_pong,
    bipedal_walker,
    cartpole,
    cogs_v_clips,
    dmc,
    lunar_lander,
    lunar_lander_continuous,
    minatar,
    minigrid_doorkey,
    mujoco,
    pendulum,
    tic_tac_toe,
)
from recipes.recipe import Recipe
from runner.run import Run
from runner.settings import RunSettings

BUILT_IN: Mapping[str, Recipe] = {
    module.RECIPE.name: module.RECIPE
    for module in (
        cartpole,
        lunar_lander,
        lunar_lander_continuous,
        pendulum,
        bipedal_walker,
        mujoco,
        dmc,
        minigrid_doorkey,
        minatar,
        cogs_v_clips,
        atari_pong,
        tic_tac_toe,
    )
}
"""The built-in recipes by name. To add a recipe, add a file and an entry here."""

GYMNASIUM_ID = re.compile(r"-v\d+$")
OWN = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")


def find_recipe(name: str) -> Recipe:
    """Find a built-in recipe or a user's own recipe.

    Args:
        name: name of a built-in recipe, or `module:function`. The function returns `RunSettings`, a
            `Run` or nested values. Modules in the current folder are found too, after installed
            ones.

    Raises:
        UserError: if there is none; the message names the nearest built-in recipe.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    if OWN.match(name):
        return Recipe(name, "", lambda: settings_from(name, load_function(name, what="recipe", gives="RunSettings")))
    if GYMNASIUM_ID.search(name):
        raise UserError(f"there is no recipe {name!r}; to train on this environment, write `--env {name}`")
    raise UserError(
        f"there is no recipe {name!r}; the nearest is {nearest(name, list(BUILT_IN))} (`oatmill recipes` lists all; your own "
        "is module:function)"
    )


def settings_from(name: str, function: Callable[[], Any]) -> RunSettings:
    """Call a user's recipe and return its settings.

    Raises:
        UserError: if the function raises, or returns something else.
    """
    try:
        made = function()
    except OatmillError:
        raise
    except Exception as error:
        raise UserError(f"recipe {name} raised {one_line(error)}; expected it to return RunSettings") from error
    if isinstance(made, Run):
        return made.settings
    if isinstance(made, Mapping):
        return RunSettings.of(made)
    if not isinstance(made, RunSettings):
        raise UserError(f"recipe {name} must return RunSettings, a Run or nested values, got {type(made).__name__}")
    return made
