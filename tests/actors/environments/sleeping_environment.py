"""An environment whose steps take as long as they are told to, without any work: many fit on one core."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

from tests.actors.environments.toy_environments import Counter


class Sleeper(Counter):
    """Sleeps in every step. The plan's copy and the first actors of a run that step it are fast, all others slow.

    Args:
        folder: in which the plan and the actors of a run count themselves.
        fast: how many actors are fast.
        fast_s: what a step of theirs takes.
        slow_s: what a step of the others' takes.
    """

    def __init__(self, folder: str, fast: int, fast_s: float, slow_s: float) -> None:
        super().__init__(length=100)
        self.folder, self.fast, self.fast_s, self.slow_s = Path(folder), fast, fast_s, slow_s
        self.step_s: float | None = None

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.step_s is None:
            self.step_s = self.fast_s if self._number() <= self.fast else self.slow_s
        time.sleep(self.step_s)
        return super().step(action)

    def _number(self) -> int:
        """How many were here before: 0 for the copy that the plan steps."""
        for number in itertools.count():
            try:
                (self.folder / f"sleeper-{number}").touch(exist_ok=False)
            except FileExistsError:
                continue
            return number
        raise AssertionError
