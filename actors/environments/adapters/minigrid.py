"""MiniGrid environments, with the agent's view as a one-hot vector.

MiniGrid's observation has three numbers per cell of the agent's view (object, colour, state) and
the agent's direction. These numbers are categories, so each becomes a one-hot part of a uint8
vector. A dense layer on it is the sum of learned embeddings of every cell's object, colour and
state. The mission's text is left out, because it is constant in most of these environments.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import minigrid  # registers its environments
import numpy as np
from minigrid.core.constants import COLOR_TO_IDX, DIR_TO_VEC, OBJECT_TO_IDX, STATE_TO_IDX

from actors.environments.adapters.gymnasium import GymnasiumEnvironment, import_registering
from actors.environments.base import name_of
from actors.environments.spaces.actions import convert_action_space
from actors.environments.spaces.minigrid_cells import one_hot_bytes
from actors.environments.spaces.observations import ObservationConversion
from actors.environments.steppers import SyncStepper
from actors.settings import MiniGridEnv
from oatmill.errors import UserError
from protocol.data.trajectory import Array

CELL_SIZES = (len(OBJECT_TO_IDX), len(COLOR_TO_IDX), len(STATE_TO_IDX))
"""The numbers of objects, colours and states: 11, 6 and 3."""
DIRECTIONS = len(DIR_TO_VEC)


class CellsAndDirection(gymnasium.ObservationWrapper[Any, Any, Any]):  # type: ignore[misc]
    """MiniGrid's observation as one uint8 vector: the cells' numbers, row by row, and the direction."""

    def observation(self, observation: Any) -> Array:
        """Convert one observation."""
        return np.append(observation["image"].ravel(), np.uint8(observation["direction"]))


def make_minigrid(settings: MiniGridEnv, copies: int | None, seed: int) -> GymnasiumEnvironment:
    """Build copies of a MiniGrid environment.

    Raises:
        UserError: if it is not a MiniGrid environment, or its observations have no cells or direction.
    """
    return around_grids([make_one(settings) for _ in range(copies or 1)], seed, name_of(settings))


def around_grids(grids: list[Any], seed: int, name: str) -> GymnasiumEnvironment:
    """Build an environment that steps copies one by one.

    Raises:
        UserError: if their observations have no cells or direction.
    """
    envs = [CellsAndDirection(grid) for grid in grids]
    conversion = one_hot_cells(view_of(envs[0], name))
    return GymnasiumEnvironment(
        name, SyncStepper(envs, conversion.raw, seed), conversion, convert_action_space(envs[0].action_space, name)
    )


def make_one(settings: MiniGridEnv, **options: Any) -> Any:
    """Create one copy; options are passed to its constructor."""
    assert minigrid is not None
    import_registering(settings.id)
    if settings.max_steps is not None:
        options["max_steps"] = settings.max_steps
    return gymnasium.make(settings.id, disable_env_checker=True, **options)


def view_of(env: Any, name: str) -> tuple[int, int]:
    """Width and height of the agent's view, in cells.

    Raises:
        UserError: if the observations have no cells or direction.
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
    """Convert `CellsAndDirection` to one-hot: 20 numbers per cell and 4 for the direction."""
    return one_hot_bytes([*(CELL_SIZES * (view[0] * view[1])), DIRECTIONS])
