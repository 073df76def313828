"""Settings of the replay role (no torch)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from protocol.settings import Settings


class ReplaySettings(Settings):
    """The queue between actors and learner."""

    acknowledge: Literal["memory", "durable"] = "memory"
    """What an acknowledgement promises: `memory` survives the death of any actor or learner; `durable`, by a log on disk, also
    that of the replay server and of its host."""
    log_dir: str | None = None
    """The folder of the log; None takes `log` in the run's folder."""
    log_bytes: int = Field(default=2**30, ge=2**20)
    """What the log may take before it lets go of what was trained on and is in no checkpoint (on_learner_restart=replay). What
    waits to be trained on is always kept, and bounded by queue_batches."""
    on_learner_restart: Literal["drop", "replay"] = "drop"
    """What becomes of trajectories that a learner has trained on since the checkpoint from which it goes on after its death:
    `drop` counts them as rolled_back; `replay` trains on them again, out of the log."""
    max_restarts: int = Field(default=5, ge=0)
    """How often in a row a replay server that died is started again without a reported learner step in between."""
    queue_batches: float = Field(default=1.0, ge=1.0, le=1024)
    """Batches that may wait, besides those in training. Every further one lets data grow one policy version older."""
    max_policy_lag: int = Field(default=16, ge=0)
    """Trajectories collected under a policy more versions behind than this are dropped as stale, but never below one batch."""
    silent_after: float = Field(default=30.0, gt=0)
    """Seconds for which an actor may send no trajectory while others do before it is named as silent: in an event, a red flag,
    `oatmill status` and a metric. One whose unrolls are known to take long has longer."""
    fraction: float = Field(default=0.0, ge=0, le=0.95)
    """The part of a batch that is sampled from the buffer of trajectories that were trained on before; the rest is fresh."""
    buffer_size: int = Field(default=2048, ge=1)
    """Trajectories that the buffer holds."""
    buffer_bytes: int = Field(default=2**30, ge=2**20)
    """Memory that the buffer may take; it holds fewer trajectories where they are large."""
    eviction: Literal["fifo", "random"] = "fifo"
    """Which trajectory makes room in a full buffer: the oldest, or any."""
    max_times_sampled: int | None = Field(default=None, ge=1)
    """How often a trajectory may be sampled from the buffer before it leaves; None for any number. What the buffer holds is
    saved with every checkpoint, below the log's folder, and comes back when the server is started again."""
    sampling: Literal["uniform", "prioritised"] = "uniform"
    """Which trajectories are sampled: all alike, or rather those whose values were furthest from their targets when they were
    last trained on."""
    priority_exponent: float = Field(default=0.6, ge=0, le=1)
    """How much `prioritised` favours them: a trajectory's chance is its mean absolute error to this power; 0 favours none."""
    importance_exponent: float = Field(default=0.4, ge=0, le=1)
    """How far a trajectory that `prioritised` favours counts for less in the losses; 1 makes up for the whole of it, 0 for
    nothing."""
    hang_timeout: float = Field(default=300.0, gt=0)
    """Seconds without progress after which the server writes all stacks to its log and ends, to be started again."""
    max_abs_reward: float = Field(default=1e6, gt=0)
    """A trajectory with a larger reward is refused as broken."""

    @model_validator(mode="after")
    def _check(self) -> ReplaySettings:
        if self.on_learner_restart == "replay" and self.acknowledge != "durable":
            raise ValueError(
                "replay.on_learner_restart=replay needs replay.acknowledge=durable: only the log on disk still has what was "
                f"trained on, got replay.acknowledge={self.acknowledge}"
            )
        return self
