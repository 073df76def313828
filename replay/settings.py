"""The settings of the replay server (no torch)."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from oatmill.settings.base import Settings


class ReplaySettings(Settings):
    """The queue between actors and learner."""

    acknowledge: Literal["memory", "durable"] = "memory"
    """What an acknowledgement guarantees. With `memory`, trajectories survive the death of any actor
    or learner. With `durable`, they are on disk and also survive the death of the replay server and
    of its host."""
    log_dir: str | None = None
    """Folder of the durable log. Null means `log` in the run folder."""
    log_bytes: int = Field(default=2**30, ge=2**20)
    """Disk space of the log, in bytes, before trained data that no checkpoint needs is deleted.
    Data that waits to be trained on is always kept; `queue_batches` bounds it."""
    on_learner_restart: Literal["drop", "replay"] = "drop"
    """What happens to trajectories that were trained on after the checkpoint that a restarted
    learner resumes from: `drop` counts them as rolled back, `replay` trains on them again from the
    log."""
    max_restarts: int = Field(default=5, ge=0)
    """Consecutive restarts of the replay server, with no reported learner step in between, before the
    run fails."""
    queue_batches: float = Field(default=1.0, ge=1.0, le=1024)
    """Batches that may wait besides those in training. Each additional batch makes the data one policy
    version older. While the learner waits for data, twice as many may wait or be collected."""
    max_policy_lag: int = Field(default=16, ge=0)
    """Trajectories from a policy that is more versions behind than this are dropped as stale, but
    enough for one batch are always kept."""
    silent_after: float = Field(default=30.0, gt=0)
    """Seconds for which an actor may send no trajectory, while others do, before it is reported as
    silent: by an event, a red flag, `oatmill status` and a metric. An actor whose trajectories are
    known to take long has more time."""
    fraction: float = Field(default=0.0, ge=0, le=0.95)
    """Fraction of each batch that is sampled from the replay buffer. The rest is fresh."""
    buffer_size: int = Field(default=2048, ge=1)
    """Capacity of the replay buffer, in trajectories."""
    buffer_bytes: int = Field(default=2**30, ge=2**20)
    """Memory of the replay buffer, in bytes. It holds fewer trajectories if they are large."""
    eviction: Literal["fifo", "random"] = "fifo"
    """Which trajectory a full buffer evicts: the oldest (`fifo`) or a random one."""
    max_times_sampled: int | None = Field(default=None, ge=1)
    """How often a trajectory may be sampled before it is removed. Null means no limit."""
    sampling: Literal["uniform", "prioritised"] = "uniform"
    """`uniform`, or `prioritised`: trajectories with larger value errors are sampled more often."""
    priority_exponent: float = Field(default=0.6, ge=0, le=1)
    """Prioritised sampling: probabilities are proportional to the mean absolute error to this power."""
    importance_exponent: float = Field(default=0.4, ge=0, le=1)
    """Prioritised sampling: exponent of the importance weights; 1 corrects the bias fully, 0 not at
    all."""
    hang_timeout: float = Field(default=300.0, gt=0)
    """Seconds without progress after which the server writes all stack traces to its log and exits,
    to be restarted."""
    memory_bytes: int | None = Field(default=None, ge=2**28)
    """Memory that each of the server's two processes may use, in bytes. A process that uses more
    logs an error, exits and is restarted. Null means 80 % of the memory of the machine or container."""
    max_abs_reward: float = Field(default=1e6, gt=0)
    """Trajectories with a larger absolute reward are rejected."""

    @model_validator(mode="after")
    def _check(self) -> ReplaySettings:
        if self.on_learner_restart == "replay" and self.acknowledge != "durable":
            raise ValueError(
                "replay.on_learner_restart=replay needs replay.acknowledge=durable: only the log on disk keeps what was "
                f"trained on, got replay.acknowledge={self.acknowledge}"
            )
        return self


class _Bound(BaseModel):
    """The base of the classes for settings of other roles that the replay server reads."""

    model_config = ConfigDict(extra="ignore")


class _Actors(_Bound):
    count: int = Field(default=0, ge=0)
    unroll_length: int = Field(ge=1)
    synchronous: bool = False


class _Trainer(_Bound):
    batch_size: int = Field(ge=1)
    seed: int = Field(ge=0)


class _Metrics(_Bound):
    host: str
    port: int = Field(ge=0, le=65535)


class ReplayRoots(_Bound):
    """The part of config.yaml that the replay server reads. Other roles check the rest."""

    actors: _Actors
    replay: ReplaySettings
    trainer: _Trainer
    metrics: _Metrics

    @model_validator(mode="after")
    def _check_that_all_are_set(self) -> Self:
        # The two processes read the plain values in the file, without defaults. Older files have no memory_bytes.
        missing = ReplaySettings.model_fields.keys() - self.replay.model_fields_set - {"memory_bytes"}
        if missing:
            raise ValueError(f"replay.{min(missing)} must be set; it has no default here")
        return self
