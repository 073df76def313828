"""MinAtar: five small versions of Atari games, whose channels of 10x10 cells each show one kind of object."""

from __future__ import annotations

from typing import Any

from minatar.gym import BaseEnv

from actors.environments.adapters.gymnasium import GymnasiumEnvironment, around_envs
from actors.environments.base import name_of
from actors.environments.wrappers import wrapped
from actors.settings import MinAtarEnv


def make_minatar(settings: MinAtarEnv, copies: int | None, seed: int) -> GymnasiumEnvironment:
    """Build copies of a game."""
    envs = [wrapped(make_one(settings), settings.wrappers) for _ in range(copies or 1)]
    return around_envs(envs, seed, name_of(settings), "last")


def make_one(settings: MinAtarEnv, **options: Any) -> Any:
    """One copy; options are arguments of MinAtar's class."""
    return BaseEnv(
        settings.game,
        use_minimal_action_set=not settings.full_action_space,
        sticky_action_prob=settings.repeat_action_probability,
        difficulty_ramping=settings.difficulty_ramping,
        **options,
    )
