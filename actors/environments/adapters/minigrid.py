"""MiniGrid: copies of a grid world, each seen as its agent sees it.

MiniGrid's observation is three numbers a cell of the agent's view (object, colour, state) and the direction that it looks in.
They name categories and measure nothing, so each becomes a one-hot part of one vector of bytes: a dense layer on it is then the
same as adding up a learned embedding of every cell's object, colour and state. The mission's text is left out: in the
environments that this is meant for it is always the same.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import minigrid  # registers its environments
import numpy as np
from minigrid.core.constants import COLOR_TO_IDX, DIR_TO_VEC, OBJECT_TO_IDX, STATE_TO_IDX

from actors.environments.adapters.gymnasium import GymnasiumEnvironment, import_registering
from actors.environments.base import name_of
from actors.environments.gymnasium_actions import convert_action_space
from actors.environments.gymnasium_spaces import ObservationConversion
from actors.environments.minigrid_cells import one_hot_bytes
from actors.environments.steppers import SyncStepper
from actors.settings import MiniGridEnv
from oatmill.errors import UserError
from protocol.data.trajectory import Array

CELL_SIZES = (len(OBJECT_TO_IDX), len(COLOR_TO_IDX), len(STATE_TO_IDX))
"""How many objects, colours and states there are: 11, 6 and 3."""
DIRECTIONS = len(DIR_TO_VEC)


class CellsAndDirection(gymnasium.ObservationWrapper[Any, Any, Any]):  # type: ignore[misc]
    """MiniGrid's observation as one row of bytes: the cells' numbers, row after row, and the direction."""

    def observation(self, observation: Any) -> Array:
        """The row."""
        return np.append(observation["image"].ravel(), np.uint8(observation["direction"]))


def make_minigrid(settings: MiniGridEnv, copies: int | None, seed: int) -> GymnasiumEnvironment:
    """Build copies of one of MiniGrid's environments.

    Args:
        settings: which one, and how long an episode is.
        copies: how many; None for one.
        seed: the root of their mazes.

    Raises:
        UserError: if it is none of MiniGrid's, or does not show cells and a direction.
    """
    return around_grids([make_one(settings) for _ in range(copies or 1)], seed, name_of(settings))


def around_grids(grids: list[Any], seed: int, name: str) -> GymnasiumEnvironment:
    """Step copies one by one, as their agents see them.

    Raises:
        UserError: if they do not show cells and a direction.
    """
    envs = [CellsAndDirection(grid) for grid in grids]
    conversion = one_hot_cells(view_of(envs[0], name))
    return GymnasiumEnvironment(
        name, SyncStepper(envs, conversion.raw, seed), conversion, convert_action_space(envs[0].action_space, name)
    )


def make_one(settings: MiniGridEnv, **options: Any) -> Any:
    """One copy, as MiniGrid makes it; options go to its constructor."""
    assert minigrid is not None
    import_registering(settings.id)
    if settings.max_steps is not None:
        options["max_steps"] = settings.max_steps
    return gymnasium.make(settings.id, disable_env_checker=True, **options)


def view_of(env: Any, name: str) -> tuple[int, int]:
    """Width and height of what the agent sees, in cells.

    Raises:
        UserError: if the environment does not show cells and a direction.
    """
    space = env.env.observation_space
    parts = getattr(space, "spaces", {})
    if not {"image", "direction"} <= parts.keys():
        raise UserError(
            f"{name}: expected one of MiniGrid's environments, whose observations have an image and a direction, got {space}; "
            "other environments take env.kind=gymnasium"
        )
    width, height, _ = parts["image"].shape
    return width, height


def one_hot_cells(view: tuple[int, int]) -> ObservationConversion:
    """From rows of `CellsAndDirection` to one-hot vectors: 20 a cell and 4 for the direction, 984 for a view of 7x7."""
    return one_hot_bytes([*(CELL_SIZES * (view[0] * view[1])), DIRECTIONS])
