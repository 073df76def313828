"""One copy of an environment whose steps are rendered, for videos of evaluations."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv

from actors.environments.adapters.gymnasium import around_envs, import_registering
from actors.environments.base import Environment, name_of
from actors.environments.make import make_environment, refusals
from actors.environments.user_factories import Factory, accepted, load_environment_function
from actors.environments.wrappers import wrapped
from actors.settings import (
    AtariEnv,
    CogsEnv,
    DmcEnv,
    EnvPoolEnv,
    EnvSettings,
    FactoryEnv,
    GymnasiumEnv,
    MinAtarEnv,
    MiniGridEnv,
    PettingZooEnv,
)
from oatmill.errors import UserError
from protocol.data.trajectory import Array

PICTURES = "rgb_array"
USUAL_RATE, COGS_RATE, ATARI_RATE = 30.0, 8.0, 60.0


class Take(Protocol):
    """Returns rendered pictures."""

    def __call__(self, *, ended: bool) -> list[Array]:
        """The pictures `[H, W, 3]` since the last call, without those of a next episode."""
        ...


@dataclass(frozen=True)
class Film:
    """One copy of an environment, with pictures.

    Attributes:
        environment: the environment.
        take: returns the pictures; call it after a reset and after every step.
        rate: pictures per second.
    """

    environment: Environment
    take: Take
    rate: float


def make_film(settings: EnvSettings, *, seed: int) -> Film:
    """Build an environment with pictures.

    Args:
        settings: the settings of `env`.
        seed: the seed of the environment.

    Raises:
        UserError: if it cannot be built, or does not render pictures.
    """
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # rendering in memory, without a screen
    with refusals(settings):
        match settings:
            case AtariEnv():
                return film_atari(settings, seed)
            case CogsEnv():
                return film_cogs(settings, seed)
            case PettingZooEnv():
                return film_parallel(settings, seed)
            case EnvPoolEnv():
                raise no_pictures(name_of(settings))
            case _:
                make, around = _maker(settings, seed)
                return film_gymnasium(make, around, seed, name_of(settings), getattr(settings, "wrappers", ()))


Around = Callable[[list[Any], int, str], Environment]
"""A function that makes an environment of copies, a seed and a name."""


def _maker(
    settings: GymnasiumEnv | FactoryEnv | MiniGridEnv | MinAtarEnv | DmcEnv, seed: int
) -> tuple[Callable[[], Any], Around]:
    """A function that builds one copy with pictures, and one that makes an environment of copies."""
    match settings:
        case GymnasiumEnv():
            import_registering(settings.id)
            make = partial(gymnasium.make, settings.id, disable_env_checker=True, **settings.kwargs)
            return partial(make, render_mode=PICTURES), partial(around_envs, channels=settings.channels)
        case FactoryEnv():
            own = Factory(settings.factory, with_pictures(settings), copies=1, seed=seed)
            return own.make, partial(around_envs, channels=settings.channels)
        case MiniGridEnv():
            from actors.environments.adapters import minigrid  # noqa: PLC0415

            return partial(minigrid.make_one, settings, render_mode=PICTURES), minigrid.around_grids
        case MinAtarEnv():
            from actors.environments.adapters import minatar  # noqa: PLC0415

            return partial(minatar.make_one, settings, render_mode=PICTURES), partial(around_envs, channels="last")
        case DmcEnv():
            from actors.environments.adapters import dmc  # noqa: PLC0415

            return partial(dmc.make_one, settings, render_mode=PICTURES), around_envs


class Camera(gymnasium.Wrapper[Any, Any, Any, Any]):  # type: ignore[misc]
    """Renders after every reset and every step."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.pictures: list[Array] = []

    def reset(self, **options: Any) -> Any:
        """Reset the environment and render."""
        outcome = self.env.reset(**options)
        self._take()
        return outcome

    def step(self, action: Any) -> Any:
        """Step the environment and render."""
        outcome = self.env.step(action)
        self._take()
        return outcome

    def since_last(self, *, ended: bool) -> list[Array]:
        """The pictures since the last call; at an episode's end without that of the next episode."""
        pictures, self.pictures = self.pictures, []
        return pictures[:1] if ended else pictures

    def _take(self) -> None:
        self.pictures.append(np.array(self.env.render(), np.uint8))


def film_gymnasium(
    make: Callable[[], Any],
    around: Around,
    seed: int,
    name: str,
    wrappers: Sequence[str | Mapping[str, Any]] = (),
) -> Film:
    """Build a film of a Gymnasium environment."""
    try:
        env = make()
    except (ValueError, TypeError) as error:
        if "render_mode" in str(error):
            raise no_pictures(name) from error
        raise
    if isinstance(env, VectorEnv) or getattr(env, "render_mode", None) != PICTURES:
        raise no_pictures(name)
    camera = Camera(wrapped(env, wrappers))
    return Film(around([camera], seed, name), camera.since_last, float(env.metadata.get("render_fps") or USUAL_RATE))


def no_pictures(name: str) -> UserError:
    """The error for an environment that does not render pictures."""
    return UserError(
        f'{name} cannot be rendered: expected an Env with render_mode="{PICTURES}" whose render returns an RGB array; '
        "leave videos (--record, evaluator.video_every) out"
    )


def with_pictures(settings: FactoryEnv | PettingZooEnv) -> dict[str, Any]:
    """The arguments of a user's function, with `render_mode` if it accepts that."""
    return accepted(load_environment_function(settings.factory), {"render_mode": PICTURES}) | settings.kwargs


def film_atari(settings: AtariEnv, seed: int) -> Film:
    """Build a film of a game; a second game takes the same actions and shows the screen in colour."""
    from actors.environments.adapters.atari import AtariStepper, around_games, make_games  # noqa: PLC0415

    screen = {"grayscale": False, "stack_num": 1, "img_height": 210, "img_width": 160}
    stepper = AtariStepper(make_games(settings, 1), seed)
    twin = AtariStepper(make_games(settings, 1, **screen), seed)
    filmed = TwinStepper(stepper, twin)
    return Film(around_games(settings, filmed), filmed.since_last, ATARI_RATE / settings.frame_skip)  # type: ignore[arg-type]


class TwinStepper:
    """Steps two steppers with the same actions; one is observed, the other one is rendered."""

    num_copies = 1
    masks: Array | None = None

    def __init__(self, played: Any, shown: Any) -> None:
        self.action_space = played.action_space
        self._played, self._shown = played, shown
        self._picture: Array | None = None

    def reset(self) -> Array:
        """Start both."""
        self._picture = self._shown.reset()[0, -1].copy()
        observations: Array = self._played.reset()
        return observations

    def step(self, actions: Array) -> Any:
        """Step both."""
        self._picture = self._shown.step(actions).observations[0, -1].copy()
        return self._played.step(actions)

    def close(self) -> None:
        """Close both."""
        self._played.close()
        self._shown.close()

    def since_last(self, *, ended: bool) -> list[Array]:
        """The frame after the last action, unless it belongs to the next episode."""
        return [] if ended or self._picture is None else [self._picture]


def film_cogs(settings: CogsEnv, seed: int) -> Film:
    """Build a film of a mission."""
    from actors.environments.adapters.cogs import CogsEnvironment  # noqa: PLC0415
    from actors.environments.adapters.cogs_picture import draw  # noqa: PLC0415

    environment = CogsEnvironment(settings, 1, seed)

    def take(*, ended: bool) -> list[Array]:
        return [] if ended else [draw(environment.board())]

    return Film(environment, take, COGS_RATE)


def film_parallel(settings: PettingZooEnv, seed: int) -> Film:
    """Build a film of a parallel environment."""
    from actors.environments.adapters.pettingzoo import ParallelEnvironment  # noqa: PLC0415

    filmed = settings.model_copy(update={"kwargs": with_pictures(settings)})
    environment = make_environment(filmed, copies=1, seed=seed)
    assert isinstance(environment, ParallelEnvironment)
    if not environment.makes_pictures:
        raise no_pictures(environment.name)

    def take(*, ended: bool) -> list[Array]:
        return [] if ended else [np.array(environment.picture(), np.uint8)]

    return Film(environment, take, USUAL_RATE)
