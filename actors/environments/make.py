"""What an actor steps: several copies of one environment, each of whose agents is a row.

The adapters (`actors.environments.adapters`) bring what they wrap to the same conventions: rows
reset themselves in the step that ends their episode, terminated and truncated are told apart, and only a truncated step carries
its final observation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from actors.environments.base import (
    Environment,
    HearsInfo,
    first_observations,
    name_of,
)
from actors.settings import AtariEnv, CogsEnv, EnvSettings, FactoryEnv, GymnasiumEnv, MiniGridEnv, PettingZooEnv
from oatmill.errors import OatmillError, UserError, one_line
from protocol.data.spaces import Spaces

EXTRAS = {
    "mettagrid": "cogs",
    "minigrid": "minigrid",
    "ale_py": "atari",
    "pettingzoo": "pettingzoo",
    "Box2D": "box2d",
    "mujoco": "mujoco",
    "dm_control": "dmc",
    "minatar": "minatar",
    "envpool": "envpool",
    "cv2": "wrappers",
}
"""The extra of oatmill that brings a module along."""


def make_environment(settings: EnvSettings, *, copies: int | None, seed: int, first_index: int = 0) -> Environment:
    """Build the environment that settings ask for.

    Args:
        settings: the `env` root.
        copies: how many; None takes one, or as many as a factory's vectorised environment has.
        seed: the root of all copies' random numbers; each copy draws its own from it.
        first_index: the `index` that a factory gets for the first copy.

    Raises:
        UserError: if it cannot be built, is not what oatmill can train on, or needs a package that is not installed.
    """
    with refusals(settings):
        environment = _builder(settings, first_index)(settings, copies, seed)
        if isinstance(environment, HearsInfo):
            environment.hear(getattr(settings, "info_metrics", ()))
        return environment


@contextmanager
def refusals(settings: EnvSettings) -> Iterator[None]:
    """Whatever building an environment raises becomes one line that a user can act on.

    Raises:
        UserError: if anything was raised.
    """
    try:
        yield
    except OatmillError:
        raise
    except ModuleNotFoundError as error:
        raise UserError(
            f"{name_of(settings)} needs a package that is not here ({one_line(error)}); {_way_out(error)}"
        ) from error
    except Exception as error:
        raise UserError(f"{name_of(settings)} could not be built: {one_line(error)}") from error


def describe(settings: EnvSettings) -> tuple[Spaces, tuple[str, ...]]:
    """The spaces and the names of the episode statistics; builds one copy, resets it and closes it.

    Raises:
        UserError: as `make_environment` and `first_observations`.
    """
    environment = make_environment(settings, copies=None, seed=0)
    try:
        first_observations(environment)
        return environment.spaces, environment.episode_statistics
    finally:
        environment.close()


def _builder(settings: EnvSettings, first_index: int) -> Callable[[Any, int | None, int], Environment]:
    # Each adapter imports what it wraps, so only the one in use is loaded.
    match settings:
        case GymnasiumEnv():
            from actors.environments.adapters.gymnasium import make_registered  # noqa: PLC0415

            return make_registered
        case FactoryEnv():
            from actors.environments.adapters.gymnasium import make_from_factory  # noqa: PLC0415

            return partial(make_from_factory, first_index=first_index)
        case CogsEnv():
            from actors.environments.adapters.cogs import make_cogs  # noqa: PLC0415

            return make_cogs
        case MiniGridEnv():
            from actors.environments.adapters.minigrid import make_minigrid  # noqa: PLC0415

            return make_minigrid
        case AtariEnv():
            from actors.environments.adapters.atari import make_atari  # noqa: PLC0415

            return make_atari
        case PettingZooEnv():
            from actors.environments.adapters.pettingzoo import make_parallel  # noqa: PLC0415

            return partial(make_parallel, first_index=first_index)


def _way_out(error: ModuleNotFoundError) -> str:
    missing = (error.name or "").partition(".")[0]
    if missing in EXTRAS:
        return f"pip install 'oatmill[{EXTRAS[missing]}]'"
    return "install it, or start the command in the folder where the module lies"
