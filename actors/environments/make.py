"""Creates the environment that the settings select.

The adapters (`actors.environments.adapters`) have the same interface:
rows reset in the step that ends their episode, terminated and truncated are separate flags, and
truncated steps have a final observation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any

from actors.environments.base import Environment, HearsInfo, name_of
from actors.environments.checks import first_observations
from actors.settings import EnvSettings, FactoryEnv, PettingZooEnv
from oatmill.errors import OatmillError, UserError, one_line
from protocol.data.spaces import Spaces

BUILDERS = {
    "gymnasium": ("gymnasium", "make_registered"),
    "factory": ("gymnasium", "make_from_factory"),
    "cogs": ("cogs", "make_cogs"),
    "minigrid": ("minigrid", "make_minigrid"),
    "atari": ("atari", "make_atari"),
    "minatar": ("minatar", "make_minatar"),
    "dmc": ("dmc", "make_dmc"),
    "envpool": ("envpool", "make_pool"),
    "pettingzoo": ("pettingzoo", "make_parallel"),
}
"""The adapter's module and function for each kind of environment. The function takes the settings, the
number of copies (None for one) and the seed of all copies; a factory's also takes the `index` of the
first copy."""
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
"""The extra of oatmill that installs each module."""

UNREGISTERED = ("NameNotFound", "NamespaceNotFound")
"""Gymnasium's errors for an id that it does not know; Gymnasium is loaded only for environments that need it."""
MODULE_FIRST = (
    "; if a module registers it, write the module before the id, such as my_module:MyEnv-v0; for a function or class of your "
    "own, write my_module:function; "
    "`--env` also takes other kinds by their names, such as atari:pong"
)


def make_environment(settings: EnvSettings, *, copies: int | None, seed: int, first_index: int = 0) -> Environment:
    """Build the environment that the settings select.

    Args:
        settings: the settings of `env`.
        copies: the number of copies; None for one, or as many as a factory's vectorised environment
            has.
        seed: the seed of all copies; each copy gets its own from it.
        first_index: the `index` that a factory gets for the first copy.

    Raises:
        UserError: if the environment cannot be built, is not supported, or needs a package that is not
            installed.
    """
    with refusals(settings):
        environment = _builder(settings, first_index)(settings, copies, seed)
        if isinstance(environment, HearsInfo):
            environment.hear(getattr(settings, "info_metrics", ()))
        return environment


@contextmanager
def refusals(settings: EnvSettings) -> Iterator[None]:
    """Turn any exception while an environment is built into a UserError of one line.

    Raises:
        UserError: if an exception was raised.
    """
    try:
        yield
    except OatmillError:
        raise
    except Exception as error:
        missing = _missing_module(error)
        if missing is not None:
            raise UserError(
                f"{name_of(settings)} needs a package that is not installed ({one_line(error)}); {_way_out(missing)}"
            ) from error
        advice = MODULE_FIRST if type(error).__name__ in UNREGISTERED else ""
        raise UserError(f"{name_of(settings)} could not be built: {one_line(error).rstrip('.')}{advice}") from error


def describe(settings: EnvSettings) -> tuple[Spaces, tuple[str, ...]]:
    """The spaces and the names of the episode statistics; builds, resets and closes one copy.

    Raises:
        UserError: see `make_environment` and `first_observations`.
    """
    environment = make_environment(settings, copies=None, seed=0)
    try:
        first_observations(environment)
        return environment.spaces, environment.episode_statistics
    finally:
        environment.close()


def _builder(settings: EnvSettings, first_index: int) -> Callable[[Any, int | None, int], Environment]:
    # Each adapter imports the package that it wraps, so only the one in use is imported.
    module, function = BUILDERS[settings.kind]
    build: Callable[..., Environment] = getattr(import_module(f"actors.environments.adapters.{module}"), function)
    takes_index = isinstance(settings, FactoryEnv | PettingZooEnv)
    return partial(build, first_index=first_index) if takes_index else build


def _missing_module(error: Exception) -> ModuleNotFoundError | None:
    """The failed import behind an error; Gymnasium raises a DependencyNotInstalled of its own because of one."""
    cause: BaseException | None = error
    if type(error).__name__ == "DependencyNotInstalled":
        cause = error.__cause__ or error.__context__
    return cause if isinstance(cause, ModuleNotFoundError) else None


def _way_out(error: ModuleNotFoundError) -> str:
    missing = (error.name or "").partition(".")[0]
    if missing in EXTRAS:
        return f"pip install 'oatmill[{EXTRAS[missing]}]'"
    return "install it, or start the command in the module's folder"
