"""Environments whose `info` has numbers; named by `env.factory` in tests."""
# ruff: noqa: ARG002 -- the signatures are Gymnasium's

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv


class Scores(gymnasium.Env[Any, Any]):  # type: ignore[misc]
    """Episode e has `length` steps; the `info` of its last step says e of itself, in several ways."""

    observation_space = Box(0, 100, (1,), np.float32)
    action_space = Discrete(2)

    def __init__(self, length: int = 2, ends: str = "terminated") -> None:
        self.length, self.ends = length, ends
        self.episode = self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode, self.steps = (1 if seed is not None else self.episode + 1), 0
        return np.zeros(1, np.float32), {"score": -1.0, "begun": True}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        over = self.steps >= self.length
        info: dict[str, Any] = {
            "score": np.float64(10 * self.episode + self.steps),
            "reward_run": 0.5,
            "reward_live": np.array([2.0]),
            "parts": {"depth": 7, "deeper": {"x": 8}},
            "text": "left out",
            "vector": np.zeros(3),
        }
        if over and self.episode % 2 == 0:
            info["is_success"] = np.bool_(self.episode % 4 == 0)
        return np.zeros(1, np.float32), 0.0, over and self.ends == "terminated", over and self.ends == "truncated", info


def vector(num_envs: int, mode: str, ends: str = "terminated") -> SyncVectorEnv:
    copies = [lambda copy=copy: Scores(2 + copy, ends) for copy in range(num_envs)]
    return SyncVectorEnv(copies, autoreset_mode=AutoresetMode[mode])


def listed(length: int) -> gymnasium.Env[Any, Any]:
    class Listed(Scores):
        def step(self, action: Any) -> tuple[Any, float, bool, bool, Any]:
            return *super().step(action)[:4], [1, 2]

    return Listed(length)


def many(count: int = 100) -> gymnasium.Env[Any, Any]:
    class Many(Scores):
        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            return *super().step(action)[:4], {f"n{number}": number for number in range(count)}

    return Many()
