"""CartPole whose steps wait while the file /tmp/hang is there, for tests in which one container hangs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import gymnasium

HANG = Path("/tmp/hang")
LOOK_EVERY_S = 0.2
STEP_S = 0.002
"""Few steps a second leave the machine to what is measured."""


def wait_while_hung() -> None:
    """Return when nothing asks this process to hang."""
    while HANG.exists():
        time.sleep(LOOK_EVERY_S)


class HangingEnv(gymnasium.Wrapper):  # type: ignore[misc]
    """Steps only while it may."""

    def step(self, action: Any) -> Any:
        """A step, later."""
        wait_while_hung()
        time.sleep(STEP_S)
        return super().step(action)


def make_env() -> gymnasium.Env:
    """The environment of `env.factory`."""
    return HangingEnv(gymnasium.make("CartPole-v1"))
