"""Tic-tac-toe with the interface of PettingZoo's games (AEC), without its packages: a small game with action masks."""
# ruff: noqa: ARG002 -- the signatures are PettingZoo's

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from gymnasium.spaces import Dict, Discrete, MultiBinary

from protocol.data.trajectory import Array

LINES = np.array([[0, 1, 2], [3, 4, 5], [6, 7, 8], [0, 3, 6], [1, 4, 7], [2, 5, 8], [0, 4, 8], [2, 4, 6]])
CELLS = 9


class TicTacToe:
    """Two players put their marks on a board of 3x3; three in a row win (1), and the other one loses (-1).

    A player sees its own marks and the other's, nine bits each.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "tic_tac_toe", "is_parallelizable": False}

    def __init__(self) -> None:
        self.possible_agents = ["first", "second"]
        self.reset()

    def observation_space(self, agent: str) -> Dict:
        """The marks, and a mask of the free cells."""
        return Dict(board=MultiBinary(2 * CELLS), action_mask=MultiBinary(CELLS))

    def action_space(self, agent: str) -> Discrete:
        """A cell, row by row."""
        return Discrete(CELLS)

    def reset(self, seed: int | None = None, options: Any = None) -> None:
        """Clear the board."""
        self.agents = list(self.possible_agents)
        self.agent_selection = self.agents[0]
        self.marks = np.zeros((2, CELLS), np.int8)  # of each player
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos: dict[str, dict[str, Any]] = {agent: {} for agent in self.agents}

    def observe(self, agent: str) -> dict[str, Array]:
        """What a player sees."""
        player = self.possible_agents.index(agent)
        free = (self.marks.sum(0) == 0).astype(np.int8)
        return {"board": np.concatenate([self.marks[player], self.marks[1 - player]]), "action_mask": free}

    def step(self, action: int | None) -> None:
        """Put a mark into a cell; None for a player whose game is over.

        Raises:
            ValueError: if the cell is not free.
        """
        mover = self.agent_selection
        other = self.possible_agents[1 - self.possible_agents.index(mover)]
        if self.terminations[mover]:
            self.agents.remove(mover)
            self.agent_selection = other
            return
        if action is None or self.marks[:, action].any():
            raise ValueError(f"expected a free cell, got {action} on the board {self.marks.tolist()}")
        own = self.marks[self.possible_agents.index(mover)]
        own[action] = 1
        won = bool(own[LINES].all(1).any())
        if won or self.marks.any(0).all():
            self.rewards = {mover: float(won), other: -float(won)}
            self.terminations = dict.fromkeys(self.agents, True)
        self.agent_selection = other

    def agent_iter(self) -> Any:
        """Whoever is on turn, until nobody is left; what marks a game of PettingZoo with turns."""
        while self.agents:
            yield self.agent_selection

    def close(self) -> None:
        """Nothing is held."""
