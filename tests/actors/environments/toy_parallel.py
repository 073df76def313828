"""Parallel environments small enough to work their numbers out by hand; named by `env.factory` in tests."""
# ruff: noqa: ARG002 -- the signatures are PettingZoo's

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv


class Relay(ParallelEnv[str, Any, Any]):  # type: ignore[misc]
    """Shows the number of steps taken; pays 1 + the action. `early` terminates after 2 steps, `late` is cut after 4.

    `guest` joins after the first step and leaves, terminated, after the third.
    """

    metadata = {"name": "relay"}  # noqa: RUF012
    possible_agents = ["early", "late", "guest"]  # noqa: RUF012
    leaves_at = {"early": 2, "late": 4, "guest": 3}  # noqa: RUF012

    def __init__(self, *, forgets_to_say: bool = False) -> None:
        self.forgets_to_say = forgets_to_say
        self.agents: list[str] = []
        self.steps = 0

    def observation_space(self, agent: str) -> Box:
        return Box(0.0, 10.0, (1,), np.float32)

    def action_space(self, agent: str) -> Discrete:
        return Discrete(2)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        self.agents, self.steps = ["early", "late"], 0
        return {agent: np.zeros(1, np.float32) for agent in self.agents}, {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, int]) -> tuple[Any, ...]:
        assert set(actions) == set(self.agents)
        self.steps += 1
        acted = list(self.agents)
        over = {agent: self.steps == self.leaves_at[agent] for agent in acted}
        self.agents = [agent for agent in acted if not over[agent]] + (["guest"] if self.steps == 1 else [])
        shown = {agent: np.array([self.steps], np.float32) for agent in {*acted, *self.agents}}
        said = {agent: over[agent] and not self.forgets_to_say for agent in acted}
        return (
            shown,
            {agent: 1.0 + actions[agent] for agent in acted},
            {agent: said[agent] and agent != "late" for agent in acted},
            {agent: said[agent] and agent == "late" for agent in acted},
            {agent: {} for agent in acted},
        )


class Telling(Relay):
    """Says to each agent how many steps were taken, and to `late` and `guest` whether they have won."""

    def step(self, actions: dict[str, int]) -> tuple[Any, ...]:
        *outcome, infos = super().step(actions)
        won = {"late": {"is_success": True}, "guest": {"is_success": False}}
        return *outcome, {agent: {"score": 10 * self.steps, **won.get(agent, {})} for agent in infos}


class Painted(Relay):
    """Renders one dot, as bright as steps were taken."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__()
        self.render_mode = render_mode

    def render(self) -> Any:
        assert self.render_mode == "rgb_array"
        return np.full((1, 1, 3), self.steps, np.uint8)


class Lingering(Relay):
    """Keeps who has left in `agents` until all have."""

    def step(self, actions: dict[str, int]) -> tuple[Any, ...]:
        listed = list(self.agents)
        outcome = super().step(actions)
        self.agents = [*listed, *(agent for agent in self.agents if agent not in listed)] if self.agents else []
        return outcome


class Unequal(Relay):
    """Its agents see different things."""

    def observation_space(self, agent: str) -> Box:
        return Box(0.0, 10.0, (len(agent),), np.float32)


class Unlike(Relay):
    """Its agents can do different things."""

    def action_space(self, agent: str) -> Discrete:
        return Discrete(len(agent))
