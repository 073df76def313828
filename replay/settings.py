"""Settings of the replay role (no torch)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from protocol.settings import Settings


class ReplaySettings(Settings):
    """The queue between actors and learner."""

    acknowledge: Literal["memory"] = "memory"
    """What an acknowledgement promises: `memory` survives the death of any actor or learner, not of the replay server."""
    queue_batches: float = Field(default=1.0, ge=1.0, le=1024)
    """Batches that may wait, besides those in training. Every further one lets data grow one policy version older."""
    max_policy_lag: int = Field(default=16, ge=0)
    """Trajectories collected under a policy more versions behind than this are dropped as stale, but never below one batch."""
    max_abs_reward: float = Field(default=1e6, gt=0)
    """A trajectory with a larger reward is refused as broken."""
