"""The DeepMind Control Suite: cheetah-run, or another task by `env.task`. Needs `oatmill[dmc]`."""

from __future__ import annotations

from recipes import mujoco
from recipes.recipe import Recipe
from runner.settings import RunSettings


def settings() -> RunSettings:
    """The settings of the recipe `mujoco`, with each action held for two steps."""
    env = {"kind": "dmc", "task": "cheetah-run", "action_repeat": 2}
    return RunSettings.of(mujoco.settings().explicit() | {"env": env})


RECIPE = Recipe("dmc", "cheetah-run and other tasks of the DeepMind Control Suite by env.task (needs oatmill[dmc])", settings)
train = RECIPE.train
