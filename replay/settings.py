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
    fraction: float = Field(default=0.0, ge=0, le=0.95)
    """The part of a batch that is sampled from the buffer of trajectories that were trained on before; the rest is fresh."""
    buffer_size: int = Field(default=2048, ge=1)
    """Trajectories that the buffer holds."""
    buffer_bytes: int = Field(default=2**30, ge=2**20)
    """Memory that the buffer may take; it holds fewer trajectories where they are large."""
    eviction: Literal["fifo", "random"] = "fifo"
    """Which trajectory makes room in a full buffer: the oldest, or any."""
    max_times_sampled: int | None = Field(default=None, ge=1)
    """How often a trajectory may be sampled from the buffer before it leaves; None for any number."""
    max_abs_reward: float = Field(default=1e6, gt=0)
    """A trajectory with a larger reward is refused as broken."""
