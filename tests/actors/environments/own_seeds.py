"""Environments that draw from a generator of their own, which only their constructor seeds; named by `env.factory` in tests."""
# ruff: noqa: ARG002 -- the signatures are Gymnasium's

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv


class Draws(gymnasium.Env[Any, Any]):  # type: ignore[misc]
    """Shows the last six digits of its seed and its index, and then a number of its own generator at every reset."""

    observation_space = Box(-1.0, np.inf, (3,), np.float64)
    action_space = Discrete(2)

    def __init__(self, seed: int = 7, index: int = -1) -> None:
        self.own = np.random.default_rng(np.int32(seed))  # which refuses more than 31 bits
        self.told = (seed % 1_000_000, index)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return np.array([*self.told, self.own.random()]), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.array([*self.told, 0.0]), 0.0, True, False, {}


def deaf() -> Draws:
    return Draws()


def deaf_vector(num_envs: int) -> SyncVectorEnv:
    return vector(num_envs, seed=7)


def vector(num_envs: int, seed: int) -> SyncVectorEnv:
    copies = [lambda copy=copy: Draws(seed + copy) for copy in range(num_envs)]
    return SyncVectorEnv(copies, autoreset_mode=AutoresetMode.SAME_STEP)
