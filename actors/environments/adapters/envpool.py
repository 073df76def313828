"""EnvPool: environments in C++, all copies of an actor stepped by one call."""

from __future__ import annotations

from typing import Any

import envpool

from actors.environments.adapters.gymnasium import GymnasiumEnvironment, around_vector_env
from actors.environments.base import name_of
from actors.environments.boundary import vector_seed
from actors.settings import EnvPoolEnv
from oatmill.errors import UserError
from oatmill.settings.complaints import nearest


class Pool:
    """A pool whose `reset` takes a seed and drops it: the pool gets its seed when it is built, and warns at every reset.

    Args:
        pool: the pool.
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self.num_envs, self.metadata = pool.num_envs, pool.metadata
        self.single_observation_space, self.single_action_space = pool.single_observation_space, pool.single_action_space

    @property
    def unwrapped(self) -> Any:
        """The pool."""
        return self._pool

    def reset(self, **_options: Any) -> Any:
        """Start all episodes."""
        return self._pool.reset()

    def step(self, actions: Any) -> Any:
        """Take one action per copy."""
        return self._pool.step(actions)

    def close(self) -> None:
        """End the pool's threads."""
        self._pool.close()


def make_pool(settings: EnvPoolEnv, copies: int | None, seed: int) -> GymnasiumEnvironment:
    """Build copies of one of EnvPool's environments.

    Raises:
        UserError: if EnvPool has no such environment or option, or oatmill does not support its spaces.
    """
    name, known = name_of(settings), envpool.list_all_envs()
    if settings.id not in known:
        raise UserError(f"{name}: EnvPool has no such environment; the nearest is {nearest(settings.id, known)}")
    count = copies or 1
    options = {"num_threads": settings.threads, "seed": vector_seed(seed, count)} | settings.kwargs
    try:
        pool = envpool.make_gymnasium(settings.id, num_envs=count, **options)
    except TypeError as error:
        raise UserError(f"{name}: expected env.kwargs to be options of EnvPool's {settings.id}: {error}") from error
    return around_vector_env(Pool(pool), seed, name, settings.channels)
