"""Restarts a run's learner, with all of its ranks, from the newest checkpoint if it crashes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from runner.local.launcher import P
from runner.local.services.service import Service


class LearnerService(Service[P]):
    """Keeps one learner running.

    Args:
        start: starts the learner, from the newest checkpoint or from the beginning.
        has_checkpoint: returns whether there is a checkpoint.
        max_restarts: the number of restarts in a row without progress after which the run fails.
        notice: called for each event with its name, a line for the user, and values.
    """

    def __init__(
        self,
        start: Callable[[bool], P],
        *,
        has_checkpoint: Callable[[], bool],
        max_restarts: int,
        notice: Callable[[str, str, Mapping[str, Any]], None],
    ) -> None:
        super().__init__(
            "learner",
            lambda: start(has_checkpoint()),
            where=lambda: (
                "from its newest checkpoint" if has_checkpoint() else "from the beginning, as there is no checkpoint yet"
            ),
            max_restarts=max_restarts,
            notice=notice,
        )
        self._begin = start

    def begin(self, *, resume: bool) -> P:
        """Start the first learner process."""
        self.child = self._begin(resume)
        return self.child
