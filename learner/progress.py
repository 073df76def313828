"""A run's progress, for checkpoints and reports."""

from __future__ import annotations

from typing import NamedTuple


class Progress(NamedTuple):
    """A run's progress."""

    learner_step: int = 0
    env_steps: int = 0
    policy_version: int = -1
    seconds: float = 0.0
