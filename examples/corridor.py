"""Example of your own environment: a corridor with a treasure at one of its ends.

oatmill train cartpole env.kind=factory env.factory=examples.corridor:make_env
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

LEFT, RIGHT = 0, 1
STEP_COST = 0.01


class Corridor(gymnasium.Env[Any, Any]):  # type: ignore[misc]
    """Walk to the treasure.

    The agent stands on one of `length` places and sees, as two numbers in 0..1, where it stands and
    at which end the treasure lies. Each step costs 0.01; the treasure gives 1 and ends the episode
    (terminated). Whoever has not found it after `4 * length` steps is stopped (truncated): the
    state is not a bad one, there is only no more time.

    Args:
        length: places, at least 3.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012  (Gymnasium's own way)

    def __init__(self, length: int = 9, render_mode: str | None = None) -> None:
        self.observation_space = Box(0.0, 1.0, (2,), np.float32)
        self.action_space = Discrete(2)
        self.length = length
        self.render_mode = render_mode
        self.place = self.treasure = self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin in the middle; all randomness comes from `np_random`, which `super().reset` seeds."""
        super().reset(seed=seed, options=options)
        self.place, self.steps = self.length // 2, 0
        self.treasure = int(self.np_random.integers(2)) * (self.length - 1)
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Move one place to the left or to the right; the walls stop the agent."""
        self.steps += 1
        self.place = min(max(self.place + (1 if action == RIGHT else -1), 0), self.length - 1)
        found = self.place == self.treasure
        late = self.steps >= 4 * self.length
        return self._seen(), float(found) - STEP_COST, found, late and not found, {"is_success": found}

    def render(self) -> Any:
        """The corridor from above: the agent is blue, the treasure gold. Only `oatmill eval --record` asks for it."""
        picture = np.full((1, self.length, 3), 230, np.uint8)
        picture[0, self.treasure] = (220, 180, 40)
        picture[0, self.place] = (40, 90, 200)
        return picture.repeat(32, axis=0).repeat(32, axis=1)

    def _seen(self) -> Any:
        return np.array([self.place, self.treasure], np.float32) / (self.length - 1)


def make_env(length: int = 9, render_mode: str | None = None) -> Corridor:
    """What `env.factory` names; `env.kwargs` are its arguments."""
    return Corridor(length, render_mode)
