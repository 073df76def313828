"""What an actor steps: several copies of one environment, each of whose agents is a row.

Adapters (`actors.gymnasium`, `actors.cogs`, `actors.minigrid`, `actors.atari`, `actors.pettingzoo`) bring what they wrap to the
same conventions: rows reset themselves in the step that ends their episode, terminated and truncated are told apart, and only a
truncated step carries its final observation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from actors.settings import AtariEnv, CogsEnv, EnvSettings, FactoryEnv, GymnasiumEnv, MiniGridEnv, PettingZooEnv
from protocol.errors import OatmillError, UserError, one_line
from protocol.spaces import Spaces
from protocol.trajectory import Array


@dataclass(frozen=True)
class Episode:
    """An episode that ran from its first step to its end.

    Attributes:
        episode_return: the sum of its rewards, undiscounted and unscaled; with several agents the mean of theirs.
        length: its steps.
        statistics: the environment's own numbers, as `Environment.episode_statistics` names them.
    """

    episode_return: float
    length: int
    statistics: tuple[float, ...] = ()


@dataclass(slots=True)
class Step:
    """What one step of all rows gave. The arrays belong to the environment and are valid until its next call.

    A row whose agent is absent has `valid` False, reward 0 and `terminated` True: whatever reads the row starts anew when the
    agent comes back, and nothing is carried over the gap.
    """

    observations: Array  # [N, ...]; of a row that ended: the first of its next episode
    rewards: Array  # [N], float32
    terminated: Array  # [N], bool
    truncated: Array  # [N], bool
    valid: Array  # [N], bool: the row's agent was there and acted
    final_observations: Array  # [F, ...], of the rows that were truncated and not terminated
    final_rows: Array  # [F], int
    episodes: Sequence[Episode]  # those that ended in this step


class Environment(Protocol):
    """Several copies of an environment, stepped together.

    Attributes:
        name: what the user called it, for messages.
        spaces: of one row.
        num_rows: N.
        episode_statistics: names of the numbers in `Episode.statistics`.
    """

    name: str
    spaces: Spaces
    num_rows: int
    episode_statistics: tuple[str, ...]

    def reset(self) -> Array:
        """Start all episodes; the observations `[N, ...]`, valid until the next call."""
        ...

    def step(self, actions: Array) -> Step:
        """Take one action a row, `[N]` or `[N, factors]`, integers."""
        ...

    def close(self) -> None:
        """Release what the copies hold. Safe to call twice."""
        ...


def make_environment(settings: EnvSettings, *, copies: int | None, seed: int) -> Environment:
    """Build the environment that settings ask for.

    Args:
        settings: the `env` root.
        copies: how many; None takes one, or as many as a factory's vectorised environment has.
        seed: the root of all copies' random numbers; each copy draws its own from it.

    Raises:
        UserError: if it cannot be built, is not what oatmill can train on, or needs a package that is not installed.
    """
    with refusals(settings):
        return _builder(settings)(settings, copies, seed)


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
    except ImportError as error:
        raise UserError(f"{name_of(settings)} needs a package that is not here ({error}); {_way_out(settings)}") from error
    except Exception as error:
        raise UserError(f"{name_of(settings)} could not be built: {one_line(error)}") from error


def first_observations(environment: Environment) -> Array:
    """Reset an environment and check that it keeps what its spaces promise.

    Raises:
        UserError: if it raises, or gives observations of another shape or dtype, or numbers that are not finite.
    """
    try:
        observations = environment.reset()
    except OatmillError:
        raise
    except Exception as error:
        raise UserError(f"{environment.name} raised in reset: {one_line(error)}") from error
    space = environment.spaces.observation
    expected = (environment.num_rows, *space.shape)
    if observations.shape != expected or observations.dtype != np.dtype(space.dtype):
        raise UserError(
            f"{environment.name}: expected first observations of shape {expected} and dtype {space.dtype}, as its space says, "
            f"got {observations.shape} {observations.dtype}; correct the environment's observation_space or reset"
        )
    if not is_finite(observations):
        raise UserError(
            f"{environment.name}: expected finite first observations, got NaN or infinity; correct the environment's reset"
        )
    return observations


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


def name_of(settings: EnvSettings) -> str:
    """What a message calls the environment: the setting that chose it."""
    match settings:
        case GymnasiumEnv() | MiniGridEnv():
            return f"env.id={settings.id}"
        case AtariEnv():
            return f"env.game={settings.game}"
        case CogsEnv():
            return f"env.mission={settings.mission}"
        case FactoryEnv() | PettingZooEnv():
            return f"env.factory={settings.factory}"


def is_finite(values: Array) -> bool:
    """Whether all numbers are finite; whole numbers are."""
    return values.dtype.kind != "f" or bool(np.isfinite(values).all())


def _builder(settings: EnvSettings) -> Callable[[Any, int | None, int], Environment]:
    # Each adapter imports what it wraps, so only the one in use is loaded.
    match settings:
        case GymnasiumEnv():
            from actors.gymnasium import make_registered  # noqa: PLC0415

            return make_registered
        case FactoryEnv():
            from actors.gymnasium import make_from_factory  # noqa: PLC0415

            return make_from_factory
        case CogsEnv():
            from actors.cogs import make_cogs  # noqa: PLC0415

            return make_cogs
        case MiniGridEnv():
            from actors.minigrid import make_minigrid  # noqa: PLC0415

            return make_minigrid
        case AtariEnv():
            from actors.atari import make_atari  # noqa: PLC0415

            return make_atari
        case PettingZooEnv():
            from actors.pettingzoo import make_parallel  # noqa: PLC0415

            return make_parallel


def _way_out(settings: EnvSettings) -> str:
    match settings:
        case CogsEnv():
            return "pip install 'oatmill[cogs]'"
        case MiniGridEnv():
            return "pip install 'oatmill[minigrid]'"
        case AtariEnv():
            return "pip install 'oatmill[atari]'"
        case PettingZooEnv():
            return "install it, for PettingZoo itself: pip install 'oatmill[pettingzoo]'"
        case _:
            return "install it, for Box2D: pip install 'oatmill[box2d]'"
