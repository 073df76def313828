"""PettingZoo's parallel environments, with one row for each possible agent of each copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from actors.environments.adapters.pettingzoo_turns import in_turns
from actors.environments.base import Episode, Step, name_of
from actors.environments.boundary import copy_seeds, flag, in_short, observation_of, outcome_of, reward
from actors.environments.infos import has_globs, names_of, of_agents, read
from actors.environments.spaces.action_masks import InfoMasks, check_allows, check_mask_space, masked_spaces, with_masks
from actors.environments.spaces.actions import ActionConversion, convert_action_space
from actors.environments.spaces.dict_spaces import convert_space
from actors.environments.spaces.observations import ObservationConversion
from actors.environments.user_factories import Factory
from actors.settings import PettingZooEnv
from oatmill.errors import UserError
from protocol.data.actions import copied, split_rows
from protocol.data.observations import Observations
from protocol.data.spaces import ACTION_MASK, Spaces
from protocol.data.trajectory import AGENT_SPREAD, Array

EVERYBODY = "__all__"
"""RLlib's name for all agents at once."""


class _Outcome(NamedTuple):
    """The return values of a parallel environment's step, by agent."""

    observations: Mapping[Any, Any]
    rewards: Mapping[Any, float]
    terminations: Mapping[Any, bool]
    truncations: Mapping[Any, bool]
    infos: Mapping[Any, Any]


class ParallelEnvironment:
    """Copies of a parallel environment; see `actors.environments.base.Environment`.

    An agent that leaves before the others is absent until the next episode of its copy; its row
    repeats the last observation. An episode of a copy lasts from its reset until no agent is left;
    its return is the mean over all possible agents. Its statistics come from the `info` of each
    agent's last step (`actors.environments.infos.of_agents`).

    Args:
        name: the environment's name for messages.
        envs: the copies.
        observation: converts the copies' observations.
        action: converts actions to the copies' format.
        seed: the seed of all copies.
    """

    def __init__(
        self, name: str, envs: Sequence[Any], observation: ObservationConversion, action: ActionConversion, seed: int
    ) -> None:
        self.name = name
        self.spaces = check_mask_space(Spaces(observation.space, action.space), name)
        self._envs = envs
        self._agents = list(envs[0].possible_agents)
        self.num_rows = rows = len(envs) * len(self._agents)
        self.num_copies = len(envs)
        self.channels = observation.channels
        self._heard: tuple[str, ...] = ()
        self._several = (AGENT_SPREAD,) if len(self._agents) > 1 else ()
        self.episode_statistics = self._several
        self._conversion = observation
        self._convert_actions = action.convert
        self._seeds = copy_seeds(seed, len(envs))
        self._observations = observation.raw.empty(rows)
        self._infos = None if self.spaces.masked else InfoMasks(action.space, rows, name, envs[0])
        self._rewards = np.zeros(rows, np.float32)
        self._terminated = np.zeros(rows, np.bool_)
        self._truncated = np.zeros(rows, np.bool_)
        self._present = np.zeros(rows, np.bool_)
        self._left = np.zeros(rows, np.bool_)  # in this episode
        self._returns = np.zeros(rows, np.float64)
        self._lengths = np.zeros(len(envs), np.int64)
        self._last_infos: list[dict[Any, Any]] = [{} for _ in envs]  # of this episode's agents that have left

    def hear(self, patterns: Sequence[str]) -> None:
        """Set the names of the statistics; see `actors.environments.base.HearsInfo`.

        Patterns are matched with the agents' `info` of one step of the first copy.
        """
        infos: Sequence[Mapping[str, Any]] = ()
        if has_globs(patterns):
            shown, action, env = self.reset(), self.spaces.action, self._envs[0]
            actions = np.zeros((self.num_rows, *action.shape), action.dtype)
            if self.spaces.masked and not action.shape:
                actions = shown[ACTION_MASK].argmax(-1)  # an allowed one
            infos = [of_agents(_Outcome(*outcome_of(env.step(self._chosen(0, self._converted(actions))))).infos)]
        self._heard = names_of(patterns, infos, self.name)
        self.episode_statistics = (*self._heard, *self._several)

    def reset(self) -> Observations:
        """Seed and reset every copy."""
        for copy, seed in enumerate(self._seeds):
            self._start(copy, seed)
        if self._infos is not None and self._infos.given and not self.spaces.masked:
            self.spaces = masked_spaces(self.spaces)
        return self._shown()

    def step(self, actions: Array) -> Step:
        """Take the actions of all agents that are present."""
        valid = self._present.copy()
        self._rewards[:] = 0
        self._terminated[:] = ~valid
        self._truncated[:] = False
        finals: list[tuple[int, Observations]] = []
        converted = self._converted(actions)
        ended = [self._step_copy(copy, converted, finals) for copy in range(len(self._envs))]
        episodes = [self._start(copy) for copy, is_over in enumerate(ended) if is_over]
        return Step(
            self._shown(),
            self._rewards,
            self._terminated,
            self._truncated,
            valid,
            self._final([shown for _, shown in finals]),
            np.array([row for row, _ in finals], np.int64),
            episodes,
        )

    def _converted(self, actions: Array) -> list[Any]:
        return split_rows(copied(self._convert_actions(actions)), self.num_rows)  # environments may modify it

    def _chosen(self, copy: int, actions: list[Any]) -> dict[Any, Any]:
        """The actions of a copy's agents that are present, by agent."""
        agents, own = self._envs[copy].agents, actions[self._rows(copy)]
        return {agent: choice for agent, choice in zip(self._agents, own, strict=True) if agent in agents}

    def _shown(self) -> Observations:
        """What the agents see now. An agent that does not act may do anything."""
        converted = self._conversion.convert(self._observations)
        if not self.spaces.masked:
            return converted
        shown = with_masks(converted, None if self._infos is None else self._infos.masks)
        shown[ACTION_MASK] = shown[ACTION_MASK] | ~self._present[:, None]
        check_allows(shown, self.spaces.action.sizes)
        return shown

    def _final(self, finals: list[Observations]) -> Observations:
        """Final observations; a mask out of `info` allows everything."""
        raw = self._conversion.raw.empty(len(finals))
        for place, shown in enumerate(finals):
            raw[place : place + 1] = shown
        converted = self._conversion.convert(raw)
        if self._infos is None or not self._infos.given:
            return converted
        return with_masks(converted, np.ones((len(finals), self.spaces.action.num_logits), np.bool_))

    def close(self) -> None:
        """Close every copy."""
        for env in self._envs:
            env.close()

    @property
    def makes_pictures(self) -> bool:
        """Whether the copies render pictures as arrays."""
        return getattr(self._envs[0], "render_mode", None) == "rgb_array"

    def picture(self) -> Any:
        """The rendered picture of the first copy."""
        return self._envs[0].render()

    def _rows(self, copy: int) -> slice:
        return slice(copy * len(self._agents), (copy + 1) * len(self._agents))

    def _step_copy(self, copy: int, actions: list[Any], finals: list[tuple[int, Observations]]) -> bool:
        """Step one copy; returns whether its episode is over."""
        env, rows = self._envs[copy], self._rows(copy)
        outcome = _Outcome(*outcome_of(env.step(self._chosen(copy, actions))))
        self._check_agents(env)
        self._lengths[copy] += 1
        for row, agent in enumerate(self._agents, rows.start):
            if self._present[row]:
                self._record(row, agent, outcome, finals)
                if agent not in env.agents and not self._left[row]:
                    raise ValueError(f"agent {agent!r} disappeared from agents without being terminated or truncated")
            elif agent in env.agents and not self._left[row]:
                self._appear(row, agent, outcome.observations, outcome.infos)
        self._returns[rows] += self._rewards[rows]
        return not self._present[rows].any()

    def _record(self, row: int, agent: Any, outcome: _Outcome, finals: list[tuple[int, Observations]]) -> None:
        self._rewards[row] = reward(_of_agent(outcome.rewards, agent, "rewards"), f"a reward of agent {agent!r}")
        self._terminated[row] = flag(_of_agent(outcome.terminations, agent, "terminations"), f"terminated of agent {agent!r}")
        self._truncated[row] = flag(_of_agent(outcome.truncations, agent, "truncations"), f"truncated of agent {agent!r}")
        self._show(row, agent, outcome.observations)
        if self._infos is not None and not (self._terminated[row] or self._truncated[row]):
            self._infos.take(_info_of(outcome.infos, agent), row)
        if self._terminated[row] or self._truncated[row]:
            self._present[row], self._left[row] = False, True
            self._last_infos[row // len(self._agents)][agent] = _info_of(outcome.infos, agent)
            if not self._terminated[row]:
                finals.append((row, self._observations[row : row + 1].copy()))

    def _show(self, row: int, agent: Any, observations: Mapping[Any, Any]) -> None:
        raw, what = self._conversion.raw, f"an observation of agent {agent!r}"
        raw.store(_of_agent(observations, agent, "observations"), self._observations, row, what)
        raw.check_limits(self._observations[row : row + 1], what, row)
        self._present[row] = True

    def _appear(self, row: int, agent: Any, observations: Mapping[Any, Any], infos: Any) -> None:
        """Show an agent that has come, and read the mask out of its info."""
        self._show(row, agent, observations)
        if self._infos is not None:
            self._infos.take(_info_of(infos, agent), row)

    def _check_agents(self, env: Any) -> None:
        for agent in env.agents:
            if agent not in self._agents:
                raise ValueError(
                    f"agent {agent!r} is in agents, but not in possible_agents {in_short(self._agents)}; name it there"
                )

    def _start(self, copy: int, seed: int | None = None) -> Episode:
        """Start a copy's next episode; returns the one that is over."""
        env, rows = self._envs[copy], self._rows(copy)
        statistics = read(self._heard, of_agents(self._last_infos[copy]))
        spread = (float(self._returns[rows].std()),) if self._several else ()
        episode = Episode(float(self._returns[rows].mean()), int(self._lengths[copy]), statistics + spread, copy)
        self._returns[rows] = 0
        self._lengths[copy] = 0
        self._present[rows] = False
        self._left[rows] = False
        self._last_infos[copy] = {}
        outcome = env.reset(seed=seed)
        observations = observation_of(outcome)
        self._check_agents(env)
        if not env.agents:
            raise ValueError("expected at least one agent after a reset, got none")
        for row, agent in enumerate(self._agents, rows.start):
            if agent in env.agents:
                self._appear(row, agent, observations, outcome[1])
        return episode


def _info_of(infos: Any, agent: Any) -> Any:
    return infos.get(agent) if isinstance(infos, Mapping) else None


def _of_agent(values: Any, agent: Any, what: str) -> Any:
    """An agent's entry in one of a step's mappings."""
    if isinstance(values, Mapping) and agent in values:
        return values[agent]
    rllib = isinstance(values, Mapping) and EVERYBODY in values
    hint = f"; {EVERYBODY!r} is RLlib's, give an entry for each agent" if rllib else ""
    raise ValueError(f"expected {what} to have an entry for agent {agent!r}, got {in_short(values)}{hint}")


def make_parallel(settings: PettingZooEnv, copies: int | None, seed: int, *, first_index: int = 0) -> ParallelEnvironment:
    """Build copies of the environment that a user's function returns.

    If the function has parameters `seed` and `index`, each call gets its own values.

    Args:
        settings: the function and its keyword arguments.
        copies: the number of copies; None for one.
        seed: the seed of all copies.
        first_index: the `index` of the first copy.

    Raises:
        UserError: if the function does not return a parallel environment, or its agents have different
            spaces.
    """
    name = name_of(settings)
    factory = Factory(settings.factory, settings.kwargs, copies=copies or 1, seed=seed, first_index=first_index)
    envs = [factory.make(copy) for copy in range(copies or 1)]
    first = envs[0]
    if not all(hasattr(first, attribute) for attribute in ("possible_agents", "observation_space", "action_space")):
        raise UserError(
            f"{name}: expected the function to return a pettingzoo ParallelEnv with possible_agents, got "
            f"{type(first).__name__}; a gymnasium environment takes env.kind=factory"
        )
    if hasattr(first, "agent_iter"):
        envs = [in_turns(env) for env in envs]
        first = envs[0]
    observation_space, action_space = _common_spaces(first, name)
    observation = convert_space(observation_space, name, settings.channels)
    return ParallelEnvironment(name, envs, observation, convert_action_space(action_space, name), seed)


def _common_spaces(env: Any, name: str) -> tuple[Any, Any]:
    if not env.possible_agents:
        raise UserError(f"{name}: expected possible_agents to name every agent that may take part, got none")
    one, *others = env.possible_agents
    for what, space_of in (("observation", env.observation_space), ("action", env.action_space)):
        for other in others:
            if space_of(one) != space_of(other):
                raise UserError(
                    f"{name}: expected all agents to share one {what} space, since one network plays them all; got "
                    f"{space_of(one)} for {one!r} and {space_of(other)} for {other!r}; pad them to one space in the function"
                )
    return env.observation_space(one), env.action_space(one)
