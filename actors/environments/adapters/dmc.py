"""The DeepMind Control Suite: continuous control on MuJoCo, with observations as one vector."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from dm_control import suite
from gymnasium.spaces import Box

from actors.environments.adapters.gymnasium import GymnasiumEnvironment, around_envs
from actors.environments.base import name_of
from actors.environments.wrappers import wrapped
from actors.settings import DmcEnv
from oatmill.errors import UserError
from oatmill.settings.complaints import nearest
from protocol.data.trajectory import Array

PICTURE = 240
"""The height of a picture, in pixels; its width is a third more."""


class DmcTask(gymnasium.Env[Array, Array]):  # type: ignore[misc]
    """A task of the suite as a Gymnasium environment.

    The last step of an episode has discount 1 if it was cut by the time limit (truncated), and 0 if the
    task is over (terminated).

    Args:
        domain: such as `cheetah`.
        task: such as `run`.
        action_repeat: steps of the task for each action; their rewards are added.
        render_mode: `rgb_array` or None.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012 -- as in Gymnasium

    def __init__(self, domain: str, task: str, *, action_repeat: int = 1, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self._env = suite.load(domain, task)
        self._repeat = action_repeat
        size = sum(int(np.prod(spec.shape)) for spec in self._env.observation_spec().values())
        self.observation_space = Box(-np.inf, np.inf, (size,), np.float32)
        action = self._env.action_spec()
        self.action_space = Box(action.minimum, action.maximum, action.shape, np.float64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed, options=options)
        if seed is not None:
            self._env.task.random.seed(seed)
        return _row(self._env.reset().observation), {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Take one action."""
        gained = 0.0
        for _ in range(self._repeat):
            at = self._env.step(action)
            gained += float(at.reward or 0.0)
            if at.last():
                break
        return _row(at.observation), gained, at.last() and at.discount == 0, at.last() and at.discount != 0, {}

    def render(self) -> Array:
        """The task, seen by its first camera."""
        picture: Array = self._env.physics.render(PICTURE, PICTURE * 4 // 3, camera_id=0)
        return picture

    def close(self) -> None:
        """Release the simulation."""
        self._env.close()


def make_dmc(settings: DmcEnv, copies: int | None, seed: int) -> GymnasiumEnvironment:
    """Build copies of a task.

    Raises:
        UserError: if the suite has no such task.
    """
    return around_envs([wrapped(make_one(settings), settings.wrappers) for _ in range(copies or 1)], seed, name_of(settings))


def make_one(settings: DmcEnv, **options: Any) -> DmcTask:
    """One copy; options are arguments of `DmcTask`.

    Raises:
        UserError: if the suite has no such task.
    """
    known = [f"{domain}-{task}" for domain, task in suite.ALL_TASKS]
    if settings.task not in known:
        raise UserError(f"{name_of(settings)}: the suite has no such task; the nearest is {nearest(settings.task, known)}")
    domain, _, task = settings.task.partition("-")
    return DmcTask(domain, task, action_repeat=settings.action_repeat, **options)


def _row(observation: Any) -> Array:
    return np.concatenate([np.ravel(value) for value in observation.values()]).astype(np.float32)
