"""Environments of two steps with structured observations and actions, for the code of a model card."""
# ruff: noqa: ARG002 -- the signatures are Gymnasium's

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple

LENGTH = 2


class Robot(gymnasium.Env[Any, Any]):  # type: ignore[misc]
    """Keys within keys, an image and a structured action."""

    observation_space = Dict(
        camera=Box(0, 255, (3, 20, 20), np.uint8), pose=Dict(place=Box(-9, 9, (2, 2)), parts=Tuple([Box(-1, 1, (1,))]))
    )
    action_space = Dict(arm=Tuple([Box(-1, 1, (2,)), Discrete(3)]), go=Discrete(2))

    def __init__(self) -> None:
        self.steps, self.last_action = 0, None

    def seen(self) -> Any:
        return self.observation_space.sample()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self.seen(), self.info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps, self.last_action = self.steps + 1, action
        assert self.action_space.contains(action)
        return self.seen(), 1.0, self.steps >= LENGTH, False, self.info()

    def info(self) -> dict[str, Any]:
        return {}


class Masked(Robot):
    """Only the first choice of each factor is allowed.

    Args:
        in_info: whether `info` has the mask; otherwise it is a key of the observation.
    """

    action_space = MultiDiscrete([2, 3])

    def __init__(self, *, in_info: bool = False) -> None:
        super().__init__()
        self.in_info = in_info
        board = Box(-1, 1, (4,))
        self.observation_space = board if in_info else Dict(board=board, action_mask=Box(0, 1, (5,), np.int8))

    def seen(self) -> Any:
        seen = self.observation_space.sample()
        return seen if self.in_info else {**seen, "action_mask": np.array([1, 0, 1, 0, 0], np.int8)}

    def info(self) -> dict[str, Any]:
        return {"action_mask": (np.array([1, 0]), np.array([1, 0, 0]))} if self.in_info else {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert list(action) == [0, 0]
        return super().step(action)
