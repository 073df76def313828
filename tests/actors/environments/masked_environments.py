"""Environments with Dict observations and action masks whose numbers are worked out by hand."""
# ruff: noqa: ARG002 -- the signatures are Gymnasium's

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv

LENGTH = 3


class Nested(gymnasium.Env[Any, Any]):  # type: ignore[misc]
    """A camera and a nested pose that show the step; the episode is cut after three."""

    observation_space = Dict(camera=Box(0, 255, (5, 6, 1), np.uint8), pose=Dict(place=Box(-9, 9, (2,)), turn=Discrete(4)))
    action_space = Discrete(2)

    def __init__(self, forgets_at: int = 0) -> None:
        self.forgets_at = forgets_at
        self.steps = 0

    def seen(self) -> dict[str, Any]:
        pose = {"place": np.array([self.steps, -self.steps], np.float32), "turn": self.steps}
        camera = (
            {} if self.forgets_at and self.steps >= self.forgets_at else {"camera": np.full((5, 6, 1), self.steps, np.uint8)}
        )
        return {"pose": pose, **camera}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self.seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self.seen(), float(action), False, self.steps >= LENGTH, {}


class Masked(gymnasium.Env[Any, Any]):  # type: ignore[misc]
    """At step t the choices t and t + 1 (modulo the number of choices) are allowed; another one is an error.

    Args:
        how: where the mask comes from and what is wrong with it.
        sizes: the choices of each factor; one number for Discrete.
    """

    def __init__(self, how: str = "info", sizes: tuple[int, ...] = (4,)) -> None:
        self.how, self.sizes, self.steps = how, sizes, 0
        self.action_space = Discrete(sizes[0]) if len(sizes) == 1 else MultiDiscrete(sizes)
        plain = Box(0, 10, (1,), np.float32)
        width = sum(sizes) + (how == "long in dict")
        mask = Box(0, 1, (width,), np.int8)
        self.observation_space = Dict(observation=plain, action_mask=mask) if "dict" in how else plain
        if how == "box actions":
            self.action_space = Box(-1, 1, (1,))

    def masks(self) -> list[np.ndarray[Any, Any]]:
        found = [np.isin(np.arange(size), [self.steps % size, (self.steps + 1) % size]).astype(np.int8) for size in self.sizes]
        return [mask * 0 for mask in found] if "nothing" in self.how and self.steps else found

    def given(self) -> tuple[Any, dict[str, Any]]:
        seen = np.array([self.steps], np.float32)
        flat = np.concatenate(self.masks())
        if self.how == "long in dict":
            flat = np.append(flat, np.int8(1))
        if "dict" in self.how:
            return {"observation": seen, "action_mask": flat}, {"action_mask": "not this one"}
        changes: dict[str, Any] = {
            "tuple": tuple(self.masks()),
            "bool": flat.astype(bool),
            "float": flat.astype(float),
            "long": np.append(flat, np.int8(1)),
            "twos": flat * 2,
            "text": "all",
        }
        if (self.how == "late" and not self.steps) or (self.how == "lost" and self.steps):
            return seen, {}
        return seen, {"action_mask": changes.get(self.how, flat)}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self.given()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.how != "box actions":
            choices = np.atleast_1d(action)
            assert all(mask[choice] for mask, choice in zip(self.masks(), choices, strict=True)), f"illegal {action}"
        self.steps += 1
        seen, info = self.given()
        return seen, 1.0, self.steps >= LENGTH, False, info


class Foreign(Masked):
    """Masks as other libraries give them: in `info["action_masks"]`, or by a method."""

    def given(self) -> tuple[Any, dict[str, Any]]:
        seen, info = super().given()
        return seen, {"action_masks": info["action_mask"]} if self.how == "plural" else {}

    def __getattr__(self, name: str) -> Any:
        if name == "action_masks" and self.how == "method":
            return lambda: np.concatenate(self.masks())
        raise AttributeError(name)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        seen, info = self.given()
        return seen, 1.0, self.steps >= LENGTH, False, info


def make_foreign_vector(how: str) -> Any:
    return SyncVectorEnv([lambda: Foreign(how)] * 2, autoreset_mode=AutoresetMode.SAME_STEP)


class Twice(Masked):
    """The mask in the observation, and the same or another one in `info`."""

    def given(self) -> tuple[Any, dict[str, Any]]:
        seen, _ = super().given()
        mask = seen["action_mask"]
        return seen, {"action_mask": (1 - mask if self.how == "other dict" else mask).astype(bool)}


class ColourAndMask(Masked):
    """The same with a Dict observation and the mask in `info`."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = Dict(seen=Box(0, 10, (1,), np.float32), colour=Discrete(3))

    def given(self) -> tuple[Any, dict[str, Any]]:
        seen, info = super().given()
        return {"seen": seen, "colour": self.steps % 3}, info


def make_vector_of_dicts(num_envs: int) -> Any:
    """Gymnasium's own copies of `Nested`."""
    return SyncVectorEnv([Nested] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)


def make_masked_vector(num_envs: int, how: str = "info", mode: str = "SAME_STEP") -> Any:
    """Gymnasium's own copies of `Masked`."""
    return SyncVectorEnv([lambda: Masked(how)] * num_envs, autoreset_mode=AutoresetMode[mode])
