"""How far a run has come: what a checkpoint and every report say of it."""

from __future__ import annotations

from typing import NamedTuple


class Progress(NamedTuple):
    """How far a run has come."""

    learner_step: int = 0
    env_steps: int = 0
    policy_version: int = -1
    seconds: float = 0.0
