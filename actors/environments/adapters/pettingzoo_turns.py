"""PettingZoo's games in which agents take turns (AEC), as environments in which all agents act at once.

At each step one agent is on turn. The others have a single allowed action, the first one, which is not passed on: they choose
with probability 1, so that no policy learns from it, while values are learned through the others' moves and rewards reach
whoever they are for. The observation has one more key, `on_turn`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces as gym_spaces

from actors.environments.spaces.action_masks import OBSERVATION
from oatmill.errors import UserError
from protocol.data.spaces import ACTION_MASK
from protocol.data.trajectory import Array

ON_TURN = "on_turn"


def in_turns(env: Any) -> Any:
    """A game with turns as a parallel environment. One whose agents all act in every round is converted as PettingZoo does."""
    if env.metadata.get("is_parallelizable", False):
        from pettingzoo.utils import aec_to_parallel  # noqa: PLC0415

        return aec_to_parallel(env)
    return Turns(env)


class Turns:
    """A game with turns; see the module.

    Args:
        env: an AECEnv.

    Raises:
        UserError: if an agent's actions are not Discrete, since a mask is made for them.
    """

    def __init__(self, env: Any) -> None:
        self._env = env
        self.possible_agents = list(env.possible_agents)
        self.agents: list[Any] = []
        self.metadata = env.metadata
        self.render_mode = getattr(env, "render_mode", None)
        for agent in self.possible_agents:
            if not isinstance(env.action_space(agent), gym_spaces.Discrete):
                raise UserError(
                    f"expected Discrete actions in a turn-based game, got {env.action_space(agent)}; convert it to a parallel "
                    "environment in the function"
                )

    def observation_space(self, agent: Any) -> gym_spaces.Dict:
        """The game's own keys, a mask and `on_turn`."""
        space = self._env.observation_space(agent)
        keys = dict(space.spaces) if isinstance(space, gym_spaces.Dict) else {OBSERVATION: space}
        mask = gym_spaces.MultiBinary(int(self._env.action_space(agent).n))
        return gym_spaces.Dict({**keys, ACTION_MASK: mask, ON_TURN: gym_spaces.MultiBinary(1)})

    def action_space(self, agent: Any) -> Any:
        """The game's own."""
        return self._env.action_space(agent)

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[dict[Any, Any], dict[Any, Any]]:
        """Start a game."""
        self._env.reset(seed=seed, options=options)
        self.agents = list(self._env.agents)
        return {agent: self._seen(agent) for agent in self.agents}, {agent: {} for agent in self.agents}

    def step(self, actions: Mapping[Any, Any]) -> tuple[dict[Any, Any], ...]:
        """Make the move of the agent that is on turn."""
        env, there = self._env, self.agents
        env.step(actions[env.agent_selection])
        rewards = {agent: env.rewards.get(agent, 0.0) for agent in there}
        terminations = {agent: bool(env.terminations.get(agent, False)) for agent in there}
        truncations = {agent: bool(env.truncations.get(agent, False)) for agent in there}
        infos = {agent: env.infos.get(agent, {}) for agent in there}
        over = {agent for agent in there if terminations[agent] or truncations[agent]}
        shown = {agent: self._seen(agent, over=True) for agent in over}
        while env.agents and env.agent_selection in over:  # PettingZoo gives the turn to who is out once more, to no effect
            env.step(None)
        self.agents = [agent for agent in there if agent not in over]
        shown |= {agent: self._seen(agent) for agent in self.agents}
        return shown, rewards, terminations, truncations, infos

    def render(self) -> Any:
        """A picture, if the game makes some."""
        return self._env.render()

    def close(self) -> None:
        """Close the game."""
        self._env.close()

    def _seen(self, agent: Any, *, over: bool = False) -> dict[str, Any]:
        env = self._env
        observation = env.observe(agent)
        keys = dict(observation) if isinstance(observation, Mapping) else {OBSERVATION: observation}
        on_turn = not over and env.agent_selection == agent
        given = keys.get(ACTION_MASK, env.infos.get(agent, {}).get(ACTION_MASK))
        keys[ACTION_MASK] = self._mask(agent, given if on_turn else None, on_turn=on_turn)
        keys[ON_TURN] = np.array([on_turn], np.int8)
        return keys

    def _mask(self, agent: Any, given: Any, *, on_turn: bool) -> Array:
        if given is not None:
            return np.asarray(given, np.int8)
        mask = np.zeros(int(self._env.action_space(agent).n), np.int8)
        mask[: None if on_turn else 1] = 1
        return mask
