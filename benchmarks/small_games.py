"""Catch and Deep Sea: two small games in which single actions matter.

The rules are those of bsuite (Osband et al. 2020, arXiv:1908.03568, appendix A).

    oatmill train --env benchmarks.small_games:Catch
    oatmill train --env benchmarks.small_games:DeepSea env.kwargs.size=10
"""
# ruff: noqa: ARG002 -- the signatures are Gymnasium's

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

MOVE_COST = 0.01


class Catch(gymnasium.Env[Any, Any]):  # type: ignore[misc]
    """A ball falls from a random column, one row per step; the paddle at the bottom moves left, stays or moves right.

    The observation is the board, flat: 1 at the ball and at the paddle, 0 elsewhere. The reward of the last step is 1 if the
    paddle is below the ball, and -1 otherwise.

    Args:
        rows: the height of the board; an episode has `rows` - 1 steps.
        columns: the width of the board.
    """

    def __init__(self, rows: int = 10, columns: int = 5) -> None:
        self.observation_space = Box(0, 1, (rows * columns,), np.uint8)
        self.action_space = Discrete(3)
        self.rows, self.columns = rows, columns
        self.row = self.ball = self.paddle = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Put the ball into a random column of the top row, and the paddle into the middle."""
        super().reset(seed=seed)
        self.row, self.ball, self.paddle = 0, int(self.np_random.integers(self.columns)), self.columns // 2
        return self.board(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Move the paddle and let the ball fall by one row."""
        self.paddle = min(max(self.paddle + int(action) - 1, 0), self.columns - 1)
        self.row += 1
        ended = self.row == self.rows - 1
        reward = (1.0 if self.paddle == self.ball else -1.0) if ended else 0.0
        return self.board(), reward, ended, False, {}

    def board(self) -> Any:
        """The observation."""
        board = np.zeros((self.rows, self.columns), np.uint8)
        board[self.row, self.ball] = board[-1, self.paddle] = 1
        return board.ravel()


class DeepSea(gymnasium.Env[Any, Any]):  # type: ignore[misc]
    """Dive through `size` rows. Only the one way that goes right in every row ends at the treasure, and right costs a little.

    The observation is the cell, one-hot. In each cell, one of the two actions goes right, drawn with `mapping_seed`. A step
    to the right costs 0.01 / `size`. The treasure gives 1, so the best return is 0.99; always left gives 0. A random
    policy finds the treasure in one of 2^`size` episodes.

    Args:
        size: rows, columns and steps of an episode.
        mapping_seed: decides which action goes right in each cell.
    """

    def __init__(self, size: int = 8, mapping_seed: int = 0) -> None:
        self.observation_space = Box(0, 1, (size * size,), np.uint8)
        self.action_space = Discrete(2)
        self.size = size
        self.right = np.random.default_rng(mapping_seed).integers(2, size=(size, size))
        self.row = self.column = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start at the top left."""
        super().reset(seed=seed)
        self.row = self.column = 0
        return self.cell(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Go down by one row, and left or right by one column."""
        right = action == self.right[self.row, self.column]
        found = right and self.column == self.size - 1
        reward = float(found) - (MOVE_COST / self.size if right else 0.0)
        self.row += 1
        self.column = min(max(self.column + (1 if right else -1), 0), self.size - 1)
        return self.cell(), reward, self.row == self.size, False, {}

    def cell(self) -> Any:
        """The observation; after the last step it is empty."""
        cells = np.zeros((self.size, self.size), np.uint8)
        if self.row < self.size:
            cells[self.row, self.column] = 1
        return cells.ravel()
