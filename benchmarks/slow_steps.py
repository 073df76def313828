"""A wrapper that makes an environment slower, as a simulator with longer steps is.

oatmill train minatar env.wrappers='[{name: benchmarks.slow_steps:Slow, milliseconds: 1}]'
"""

from __future__ import annotations

import time
from typing import Any

import gymnasium


class Slow(gymnasium.Wrapper[Any, Any, Any, Any]):  # type: ignore[misc]
    """Each step takes longer, without using a core.

    Args:
        env: the environment.
        milliseconds: added to each step.
    """

    def __init__(self, env: Any, milliseconds: float = 1.0) -> None:
        super().__init__(env)
        self.seconds = milliseconds / 1000

    def step(self, action: Any) -> Any:
        """Wait, and take the step."""
        time.sleep(self.seconds)
        return self.env.step(action)
