"""Cogs versus clips on MettaGrid: simulations in one process, with one row per agent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from mettagrid.config.mettagrid_c_config import convert_to_cpp_game_config, rename_map_agents
from mettagrid.mettagrid_c import (
    MettaGrid,
    dtype_actions,
    dtype_observations,
    dtype_rewards,
    dtype_terminals,
    dtype_truncations,
)

from actors.environments.adapters.cogs_mission import HEARTS_CREATED, HEARTS_DEPOSITED, CogsGame
from actors.environments.base import Episode, Step, name_of
from actors.settings import CogsEnv
from protocol.data.trajectory import Array

MAX_SEED = 2**31
NOOP = 0
FIRST_VIBE_ACTION = 5  # after noop and four moves


@dataclass(frozen=True)
class Thing:
    """A wall, a station or an agent.

    Attributes:
        kind: MettaGrid's name of the type, such as carbon_extractor.
        place: row and column.
        agent: the agent's number; None for other things.
        inventory: amounts by resource.
    """

    kind: str
    place: tuple[int, int]
    agent: int | None
    inventory: Mapping[str, int]


@dataclass(frozen=True)
class Board:
    """The state of one simulation at one step, for drawing.

    Attributes:
        size: rows and columns.
        things: the things on the board.
        step: the episode's step.
        hearts_created: hearts that the team has created so far.
        hearts_deposited: hearts that the team has deposited so far.
    """

    size: tuple[int, int]
    things: Sequence[Thing]
    step: int
    hearts_created: int
    hearts_deposited: int


class CogsEnvironment:
    """Simulations that write their rows into shared buffers; see `actors.environments.base.Environment`.

    An episode belongs to one simulation: its return is the mean over the agents, its statistics are
    the team's. It is truncated at `max_steps`. To avoid that all simulations end at the same step,
    the first episode of all simulations except the first is shorter, evenly spread. These shortened
    episodes are not reported.

    Args:
        settings: the mission, the number of agents, and the length of an episode.
        copies: the number of simulations.
        seed: the seed of all maps and random numbers.
    """

    channels: str | None = None
    episode_statistics: tuple[str, ...] = ("hearts_created", "hearts_deposited")

    def __init__(self, settings: CogsEnv, copies: int, seed: int) -> None:
        self.name = name_of(settings)
        self._game = CogsGame(settings)
        self.spaces = self._game.spaces
        self.num_rows, self.num_copies = copies * settings.num_cogs, copies
        # Done once: converting the configuration takes ten times as long as creating a simulation.
        self._cpp_config, self._agent_names = convert_to_cpp_game_config(self._game.config)
        self._rngs = [np.random.default_rng(part) for part in np.random.SeedSequence(seed).spawn(copies)]
        self._rows = [slice(i * settings.num_cogs, (i + 1) * settings.num_cogs) for i in range(copies)]
        self._make_buffers()
        self._simulations: list[MettaGrid] = []
        self._ages = np.zeros(copies, np.int64)
        self._limits = np.zeros(copies, np.int64)
        self._complete = np.zeros(copies, np.bool_)

    def _make_buffers(self) -> None:
        rows = self.num_rows
        self._observations = np.zeros((rows, *self.spaces.observation.shape), dtype_observations)
        self._terminals = np.zeros(rows, dtype_terminals)
        self._truncations = np.zeros(rows, dtype_truncations)
        self._rewards = np.zeros(rows, dtype_rewards)
        self._actions = np.zeros(rows, dtype_actions)
        self._vibe_actions = np.zeros(rows, dtype_actions)
        self._valid = np.ones(rows, np.bool_)

    def reset(self) -> Array:
        """Start all simulations."""
        copies, max_steps = len(self._rows), self._game.max_steps
        self._simulations = [self._start(i) for i in range(copies)]
        self._ages[:] = 0
        self._limits[:] = np.maximum(max_steps - np.arange(copies) * max_steps // copies, 1)
        self._complete[:] = self._limits == max_steps
        return self._observations

    def step(self, actions: Array) -> Step:
        """Take one action per agent.

        Raises:
            ValueError: if an action is out of range, which MettaGrid does not check.
        """
        if actions.min() < 0 or actions.max() >= self.spaces.action.sizes[0]:
            raise ValueError(f"expected actions of 0 to {self.spaces.action.sizes[0] - 1}, got {actions}")
        # MettaGrid takes two actions per step, one of them a change of vibe; the policy chooses one
        # of both kinds.
        is_vibe = actions >= FIRST_VIBE_ACTION
        self._actions[:] = np.where(is_vibe, NOOP, actions)
        self._vibe_actions[:] = np.where(is_vibe, actions, NOOP)
        for simulation in self._simulations:
            simulation.step()
        self._ages += 1
        # Copies are needed, because a new simulation clears its rows.
        rewards, terminated = self._rewards.copy(), self._terminals.astype(np.bool_)
        truncated = self._truncations.astype(np.bool_)
        ended = np.flatnonzero(self._ages == self._limits)
        if not ended.size:
            return Step(self._observations, rewards, terminated, truncated, self._valid, self._observations[:0], ended, ())
        final_rows = np.concatenate([np.arange(self.num_rows)[self._rows[i]] for i in ended])
        truncated[final_rows] = True
        finals = self._observations[final_rows]
        episodes = list(self._end(ended))
        return Step(self._observations, rewards, terminated, truncated, self._valid, finals, final_rows, episodes)

    def close(self) -> None:
        """Release all simulations."""
        self._simulations = []

    def board(self) -> Board:
        """The current state of the first simulation, for drawing."""
        simulation = self._simulations[0]
        names = self._game.config.resource_names
        things = [
            Thing(
                thing["type_name"],
                (thing["r"], thing["c"]),
                thing.get("agent_id"),
                {names[item]: amount for item, amount in thing["inventory"].items()},
            )
            for thing in simulation.grid_objects().values()
        ]
        created, deposited = (simulation.get_game_stat(name) or 0.0 for name in (HEARTS_CREATED, HEARTS_DEPOSITED))
        size = (simulation.map_height, simulation.map_width)
        return Board(size, things, int(self._ages[0]), int(created), int(deposited))

    def _end(self, ended: Array) -> Iterator[Episode]:
        for i in ended:
            if self._complete[i]:
                yield self._episode(i)
            self._simulations[i] = self._start(i)
        self._ages[ended] = 0
        self._limits[ended] = self._game.max_steps
        self._complete[ended] = True

    def _episode(self, i: int) -> Episode:
        simulation = self._simulations[i]
        hearts = (simulation.get_game_stat(name) or 0.0 for name in (HEARTS_CREATED, HEARTS_DEPOSITED))
        return Episode(float(simulation.get_episode_rewards().mean()), int(self._ages[i]), tuple(hearts), int(i))

    def _start(self, i: int) -> MettaGrid:
        # MettaGrid has no reset: a new simulation gets the buffers and writes its first observations.
        rng, rows = self._rngs[i], self._rows[i]
        cells = rename_map_agents(self._game.make_map(rng), self._agent_names)
        simulation = MettaGrid(self._cpp_config, cells, int(rng.integers(MAX_SEED)))
        simulation.set_buffers(
            self._observations[rows],
            self._terminals[rows],
            self._truncations[rows],
            self._rewards[rows],
            self._actions[rows],
            self._vibe_actions[rows],
        )
        return simulation


def make_cogs(settings: CogsEnv, copies: int | None, seed: int) -> CogsEnvironment:
    """Build simulations of a mission."""
    return CogsEnvironment(settings, copies or 1, seed)
