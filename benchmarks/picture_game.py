"""A game of 64x64 pictures in three colours that costs almost nothing to step: catch a falling block."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from runner.settings import RunSettings

SIDE, BLOCK, SPEED = 64, 8, 4


class Catch(gymnasium.Env[Any, Any]):
    """Move a green block left or right so that it is under the red one when that has fallen: reward 1, otherwise -1."""

    observation_space = spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Put the red block at a random column."""
        super().reset(seed=seed, options=options)
        self.column, self.row, self.own = int(self.np_random.integers(SIDE - BLOCK)), 0, (SIDE - BLOCK) // 2
        return self.picture(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Move by 4 pixels; the red block falls by 4."""
        self.own = min(max(self.own + SPEED * (int(action) - 1), 0), SIDE - BLOCK)
        self.row += SPEED
        ended = self.row >= SIDE - 2 * BLOCK
        reward = (1.0 if abs(self.own - self.column) < BLOCK else -1.0) if ended else 0.0
        return self.picture(), reward, ended, False, {}

    def picture(self) -> Any:
        """The blocks on a grey background."""
        picture = np.full((SIDE, SIDE, 3), 90, np.uint8)
        picture[self.row : self.row + BLOCK, self.column : self.column + BLOCK] = (200, 0, 0)
        picture[SIDE - BLOCK :, self.own : self.own + BLOCK] = (0, 200, 0)
        return picture


def settings() -> RunSettings:
    """A recipe: the network that `agent.encoder=auto` chooses on a CPU, otherwise the settings of atari_pong."""
    return RunSettings.of(
        {
            "env": {"kind": "factory", "factory": "benchmarks.picture_game:Catch"},
            "agent": {"encoder": "auto_cpu", "hidden_sizes": [128], "activation": "relu", "value_head": "scalar"},
            "actors": {"count": 2, "envs_per_actor": 8, "unroll_length": 128},
            "trainer": {"batch_size": 8, "epochs": 3, "minibatches": 4, "shuffle": "steps", "device": "cpu"},
        }
    )
