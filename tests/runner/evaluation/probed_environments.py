"""Environments for `oatmill probe`: one that repeats itself with the same seed, and one that does not."""

from __future__ import annotations

import itertools
from typing import Any

import gymnasium
import numpy as np

from protocol.data.trajectory import Array

END = 5
CUT_AFTER = 9
_MADE = itertools.count()


class Corridor(gymnasium.Env[Array, np.int64]):  # type: ignore[misc]
    """A walk from a random place: 0 goes left for a reward of 1, 1 goes right for 0.5 times the place; it ends at place 5."""

    observation_space = gymnasium.spaces.Box(-100, 100, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, *, repeats: bool = True) -> None:
        self._place = self._steps = 0
        self._noise = 0 if repeats else next(_MADE)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self._place, self._steps = int(self.np_random.integers(5)), 0
        return self._shown(), {}

    def step(self, action: np.int64) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        reward = 0.5 * self._place if action else 1.0
        self._place += 1 if action else -1
        self._steps += 1
        return self._shown(), reward, self._place == END, self._steps == CUT_AFTER, {}

    def _shown(self) -> Array:
        return np.array([self._place, self._noise], np.float32)
