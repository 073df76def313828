"""Environments small enough to work their numbers out by hand, and broken ones; named by `env.factory` in tests."""
# ruff: noqa: ARG002 -- the signatures are Gymnasium's

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv


class Counter(gymnasium.Env[Any, Any]):  # type: ignore[misc]
    """Shows how many steps were taken; the reward is 1 + the action; ends after `length` steps."""

    def __init__(self, length: int = 3, *, ends: str = "truncated") -> None:
        self.observation_space = Box(0.0, 100.0, (1,), np.float32)
        self.action_space = Discrete(2)
        self.length = length
        self.ends = ends
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return np.array([0.0], np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        over = self.steps >= self.length
        terminated, truncated = over and self.ends in ("terminated", "both"), over and self.ends in ("truncated", "both")
        return np.array([self.steps], np.float32), 1.0 + float(action), terminated, truncated, {}


class Fails(Counter):
    """Breaks its promises in the way that it is told to."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if self.how == "raises in reset":
            raise OSError("the level file\nis gone")
        observation, info = super().reset(seed=seed)
        if self.how == "nan in reset":
            observation = observation * np.nan
        if self.how == "wrong shape in reset":
            observation = np.zeros(3, np.float32)
        return observation, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        if self.how == "raises in step":
            raise RuntimeError("the physics exploded")
        if self.how == "nan in step":
            observation = observation * np.nan
        if self.how == "infinite reward":
            reward = np.inf
        if self.how == "wrong shape in step":
            observation = np.zeros(3, np.float32)
        return observation, reward, terminated, truncated, info


class Seeded(gymnasium.Env[Any, Any]):  # type: ignore[misc]
    """Shows one random number an episode, drawn from the seeded generator; every episode has one step."""

    observation_space = Box(0.0, 1.0, (1,), np.float64)
    action_space = Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.np_random.random(1), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.np_random.random(1), 0.0, True, False, {}


class Fixed(gymnasium.Env[Any, Any]):  # type: ignore[misc]
    """Has the spaces that it is given, and shows a constant."""

    def __init__(self, observation_space: Any, action_space: Any, observation: Any) -> None:
        self.observation_space, self.action_space, self.observation = observation_space, action_space, observation
        self.taken: list[Any] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observation, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(np.asarray(action) if np.ndim(action) else action)
        self.taken.append(action)
        return self.observation, 0.0, False, False, {}


def make_counters(num_envs: int, mode: str, length: int = 3, ends: str = "truncated") -> SyncVectorEnv[Any, Any]:
    """A VectorEnv of as many counters as it is asked for."""
    return SyncVectorEnv([lambda: Counter(length, ends=ends)] * num_envs, autoreset_mode=AutoresetMode[mode])


def make_two_counters() -> SyncVectorEnv[Any, Any]:
    """A VectorEnv whose number of copies is fixed."""
    return make_counters(2, "SAME_STEP")


def make_nameless_mode() -> SyncVectorEnv[Any, Any]:
    """A VectorEnv that does not say what it does after an episode's end."""
    env = make_two_counters()
    env.metadata = {}
    return env


def make_without_metadata() -> SyncVectorEnv[Any, Any]:
    """A VectorEnv whose class has set `metadata` to nothing."""
    env = make_two_counters()
    env.metadata = None
    return env


_ONE = Counter()


def make_always_the_same() -> Counter:
    """Returns one and the same environment at each call."""
    return _ONE


def make_text() -> str:
    """Returns no environment."""
    return "CartPole-v1"


NOT_A_FUNCTION = 3


def make_far_cartpole() -> gymnasium.Env[Any, Any]:
    """CartPole with observations that no network reads as they are: times 1,000, plus 5,000."""
    wide = Box(-np.inf, np.inf, (4,), np.float32)
    return gymnasium.wrappers.TransformObservation(
        gymnasium.make("CartPole-v1"), lambda observation: (observation * 1000 + 5000).astype(np.float32), wide
    )
