"""Environments with buffers of their own, odd flags and changed actions; named by `env.factory` in tests."""
# ruff: noqa: ARG002, ARG005 -- the signatures are Gymnasium's and PettingZoo's

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from gymnasium.vector import AutoresetMode, VectorEnv
from pettingzoo import ParallelEnv

LENGTHS = (2, 3)
"""Steps of each copy's episodes."""


class Scripted(VectorEnv[Any, Any, Any]):  # type: ignore[misc]
    """Two copies, whose episodes have 2 and 3 steps. Shows the steps taken; copy i pays 10 * i + the steps taken.

    Observations, rewards and flags are the environment's own buffers, written over at the next call: `reset` clears them all.

    Args:
        mode: what it does after an episode's end.
        flags: the dtype of `terminated` and `truncated`.
        ends: which of the two says that an episode is over.
        change: a key of `CHANGES`: what else is odd about a step's values.
    """

    def __init__(self, mode: str, flags: str = "bool", ends: str = "truncated", change: str = "") -> None:
        self.num_envs = len(LENGTHS)
        self.mode, self.ends, self.change = AutoresetMode[mode], ends, change
        self.metadata = {"autoreset_mode": self.mode}
        self.single_observation_space = Box(0, 100, (1,), np.float32)
        self.single_action_space = Discrete(2)
        self.steps = np.zeros(self.num_envs, np.int64)
        self.over = np.zeros(self.num_envs, np.bool_)
        self.shown = np.zeros((self.num_envs, 1), np.float32)
        self.rewards = np.zeros(self.num_envs, np.float32)
        self.terminated, self.truncated = np.zeros(self.num_envs, flags), np.zeros(self.num_envs, flags)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.steps[(options or {}).get("reset_mask", slice(None))] = 0
        self.over[:] = False
        self.rewards[:], self.terminated[:], self.truncated[:] = 0, 0, 0
        self.shown[:, 0] = self.steps
        return self.shown, {}

    def step(self, actions: Any) -> tuple[Any, ...]:
        resetting = self.over if self.mode == AutoresetMode.NEXT_STEP else np.zeros(self.num_envs, np.bool_)
        self.steps += 1
        self.steps[resetting] = 0
        self.rewards[:] = np.where(resetting, 0, 10 * np.arange(self.num_envs) + self.steps)
        self.over = self.steps == LENGTHS
        self.terminated[:] = self.over & (self.ends == "terminated")
        self.truncated[:] = self.over & (self.ends == "truncated")
        infos: dict[str, Any] = {}
        if self.mode == AutoresetMode.SAME_STEP and self.over.any():
            infos["final_obs"] = np.array(
                [[step] if over else None for step, over in zip(self.steps, self.over, strict=True)], object
            )
            self.steps[self.over] = 0
        self.shown[:, 0] = self.steps
        changed: tuple[Any, ...] = CHANGES[self.change]([self.shown, self.rewards, self.terminated, self.truncated, infos])
        return changed


def _changed(place: int, change: Any) -> Any:
    """A step's values, of which one is changed."""
    return lambda values: (*values[:place], change(values[place]), *values[place + 1 :])


def _tensors(values: list[Any]) -> tuple[Any, ...]:
    import torch

    return (*(torch.from_numpy(value) for value in values[:4]), values[4])


CHANGES: dict[str, Any] = {
    "": tuple,
    "lists": lambda values: (*(value.tolist() for value in values[:4]), values[4]),
    "columns": lambda values: (values[0], *(value[:, None] for value in values[1:4]), values[4]),
    "tensors": _tensors,
    "float64 observations": _changed(0, lambda shown: shown.astype(np.float64)),
    "older name": _changed(4, lambda infos: {"final_observation": infos["final_obs"]} if infos else {}),
    "one observation": _changed(0, lambda shown: shown[0]),
    "wide observations": _changed(0, lambda shown: np.zeros((2, 3), np.float32)),
    "one reward": _changed(1, lambda rewards: np.float32(1)),
    "rewards of a table": _changed(1, lambda rewards: np.zeros((2, 2))),
    "no rewards": _changed(1, lambda rewards: None),
    "flags of 2": _changed(2, lambda flags: flags + 2),
    "flags of text": _changed(3, lambda flags: ["False", "False"]),
    "no final": _changed(4, lambda infos: None),
    "scalar finals": _changed(4, lambda infos: {"final_obs": np.zeros(2)}),
    "few finals": _changed(4, lambda infos: {"final_obs": np.zeros((1, 1))}),
    "empty finals": _changed(4, lambda infos: {"final_obs": [None, None]}),
    "four values": lambda values: tuple(values[:4]),
}


class ChangesActions(gymnasium.Env[Any, Any]):  # type: ignore[misc]
    """Pays the sum of the action and then overwrites it, as an environment that clips or counts in place does."""

    observation_space = Box(0, 1, (1,), np.float32)
    action_space = MultiDiscrete([3, 3])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        paid = float(action.sum())
        action[:] = 7
        return np.zeros(1, np.float32), paid, False, False, {}


class VectorChangesActions(Scripted):
    """The same, for all copies at once."""

    def __init__(self) -> None:
        super().__init__("SAME_STEP")
        self.single_action_space = MultiDiscrete([3, 3])

    def step(self, actions: Any) -> tuple[Any, ...]:
        paid = actions.sum(1).astype(np.float64)
        actions[:] = 7
        shown, _, terminated, truncated, infos = super().step(actions)
        return shown, paid, terminated, truncated, infos


class ParallelChangesActions(ParallelEnv[str, Any, Any]):  # type: ignore[misc]
    """The same, for two agents."""

    metadata = {"name": "changes_actions"}  # noqa: RUF012
    possible_agents = ["a", "b"]  # noqa: RUF012

    def observation_space(self, agent: str) -> Box:
        return Box(0, 1, (1,), np.float32)

    def action_space(self, agent: str) -> MultiDiscrete:
        return MultiDiscrete([3, 3])

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        self.agents = ["a", "b"]
        return {agent: np.zeros(1, np.float32) for agent in self.agents}, {}

    def step(self, actions: dict[str, Any]) -> tuple[Any, ...]:
        paid = {agent: float(action.sum()) for agent, action in actions.items()}
        for action in actions.values():
            action[:] = 7
        no = dict.fromkeys(self.agents, False)
        return {agent: np.zeros(1, np.float32) for agent in self.agents}, paid, no, no, {}


class Shows(gymnasium.Env[Any, Any]):  # type: ignore[misc]
    """Has the observation space that it is given and shows `first` at a reset and `then` at every step."""

    action_space = Discrete(2)

    def __init__(self, observation_space: Any, first: Any, then: Any) -> None:
        self.observation_space, self.first, self.then = observation_space, first, then

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return self.first, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.then, 0.0, False, False, {}


def make_picture(shape: list[int]) -> Shows:
    """Shows black pictures."""
    black = np.zeros(shape, np.uint8)
    return Shows(Box(0, 255, tuple(shape), np.uint8), black, black)


def make_needy() -> Any:
    """Needs a module that is not there."""
    import no_such_module  # type: ignore[import-not-found]

    return no_such_module.make()


class Int32Seed(gymnasium.Env[Any, Any]):  # type: ignore[misc]
    """Takes seeds of a signed 32-bit number and shows a number drawn from them; deaf to them if it is told to be."""

    observation_space = Box(0, 1, (1,), np.float64)
    action_space = Discrete(2)

    def __init__(self, *, deaf: bool = False, constant: bool = False) -> None:
        self.deaf, self.constant = deaf, constant
        self.rng = np.random.default_rng(0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            np.int32(seed)
            self.rng = self.rng if self.deaf else np.random.default_rng(seed)
        return np.zeros(1) if self.constant else self.rng.random(1), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.rng.random(1), self.rng.random(), not self.constant, False, {}


class Oddity(gymnasium.Env[Any, Any]):  # type: ignore[misc]
    """Returns what it is told to from `reset` and `step`."""

    observation_space = Box(0, 9, (1,), np.float32)
    action_space = Discrete(2)

    def __init__(self, reset: Any = None, step: Any = None) -> None:
        self.from_reset = (np.zeros(1, np.float32), {}) if reset is None else reset
        self.from_step = step

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return self.from_reset

    def step(self, action: Any) -> Any:
        return self.from_step


class Doubles(Int32Seed):
    """Makes torch's default dtype its own."""

    def __init__(self, where: str = "reset") -> None:
        super().__init__()
        self.where = where

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self._change("reset")
        return super().reset(seed=seed)

    def step(self, action: Any) -> Any:
        self._change("step")
        return super().step(action)

    def _change(self, here: str) -> None:
        import torch

        if here == self.where:
            torch.set_default_dtype(torch.float64)


class OddTeam(ParallelChangesActions):
    """Two agents that take one step an episode; odd in the way that it is told to be."""

    def __init__(self, how: str) -> None:
        self.how = how
        if how == "nobody possible":
            self.possible_agents = []

    def observation_space(self, agent: str) -> Any:
        return Discrete(1) if self.how == "out of range" else super().observation_space(agent)

    def action_space(self, agent: str) -> Discrete:
        return Discrete(2)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        shown, infos = super().reset()
        if self.how == "out of range":
            shown = dict.fromkeys("ab", 0)
        if self.how == "stranger at reset":
            self.agents = ["a", "b", "c"]
        return shown, infos

    def step(self, actions: dict[str, Any]) -> tuple[Any, ...]:
        shown: dict[str, Any] = {agent: np.ones(1, np.float32) for agent in "ab"}
        paid: dict[str, Any] = dict.fromkeys("ab", 1.0)
        no, yes = dict.fromkeys("ab", False), dict.fromkeys("ab", True)
        self.agents = ["c"] if self.how == "stranger" else []
        match self.how:
            case "rewards of arrays":
                paid = {agent: np.array([2.0]) for agent in "ab"}
            case "no reward":
                del paid["b"]
            case "no observation":
                shown = {}
            case "all at once":
                no, yes = {"__all__": False}, {"__all__": True}
            case "reward for all":
                return shown, 1.0, no, yes, {}
            case "out of range":
                shown = {"a": 0, "b": 1}
            case "wrong shape":
                shown["b"] = np.ones(2, np.float32)
        return shown, paid, no, yes, {}
