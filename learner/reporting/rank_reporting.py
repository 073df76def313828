"""The reporting of one rank: reports over all ranks, steering, and on rank 0 the run's files and metrics."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from agent.checkpoint_manifest import LATEST
from agent.spec import AgentSpec
from learner.progress import Progress
from learner.ranks.reduce import Ranks
from learner.reporting.loggers import BackgroundWriters, wanted_targets
from learner.reporting.measurements import Measurements, StepReport
from learner.reporting.metrics import LearnerMetrics
from learner.reporting.rank_resources import RankResources
from learner.reporting.red_flags import FLAGS
from learner.reporting.run_files import RunFiles
from learner.reporting.steering import Steering
from learner.setup import LearnerConfig
from learner.update.updater import Record, Updater
from protocol.data.trajectory import Array

log = logging.getLogger("oatmill.learner")


class RankReporting:
    """The reporting of one rank; all ranks take part in each report.

    Args:
        config: the learner's configuration.
        ranks: the group of ranks.
        updater: the updater whose learner steps are reported.
        spec: the network's specification.
        healthy: returns whether the learner makes progress; called at each scrape.

    Attributes:
        resources: what the ranks use of their machines.
        run_files: writes the run's files; None except on rank 0.
        metrics: the learner's Prometheus series; None except on rank 0.
    """

    def __init__(
        self, config: LearnerConfig, ranks: Ranks, updater: Updater, spec: AgentSpec, healthy: Callable[[], bool]
    ) -> None:
        self._config, self._ranks, self._updater = config, ranks, updater
        self._measurements = Measurements(updater.plan.losses, ranks.reducer, updater.plan.descriptors)
        self._steering = Steering(config.trainer, updater.plan.descriptors, updater.context.scales)
        self.resources = RankResources(ranks)
        self.run_files: RunFiles | None = None
        self.metrics: LearnerMetrics | None = None
        if ranks.first:
            action = spec.spaces.action
            # A Gaussian's entropy may be below 0: no fraction of anything.
            uniform = 0.0 if action.dimensions else sum(math.log(size) for size in action.sizes)
            writers = BackgroundWriters(wanted_targets(config.metrics), config.run_dir, config.settings)
            self.run_files = RunFiles(config.run_dir, uniform, config.trainer.total_timesteps, writers)
            self.run_files.describe(updater.plan.descriptors)
            self.metrics = LearnerMetrics(
                updater.plan.auto,
                config.settings,
                healthy,
                updater.plan.descriptors,
                ranks=self.resources.newest,
                others=self.run_files.evaluations.processes,
            )

    def close(self) -> None:
        """Finish writing the files; called also if the run fails."""
        if self.run_files is not None:
            self.run_files.close()

    @property
    def flagged(self) -> bool:
        """Whether a red flag is raised; always False except on rank 0."""
        return self.run_files is not None and bool(self.run_files.raised)

    @property
    def pending(self) -> bool:
        """Whether a learner step has not been reported yet."""
        return bool(self._measurements.records)

    def event(self, event: str, **values: Any) -> None:
        """Write a line of events.jsonl; rank 0 only."""
        if self.run_files is not None:
            self.run_files.event(event, **values)

    def note(self, record: Record, progress: Progress, *, lag: Array, replayed_lag: Array, rate: float, due: float = 0) -> None:
        """Count a learner step.

        Args:
            record: the step's measurements.
            progress: the run's progress after the step.
            lag: the policy lag of each fresh trajectory, in versions.
            replayed_lag: the policy lag of each trajectory from the replay buffer.
            rate: the learning rate.
            due: 1 where the ranks have agreed to gather their resources, otherwise 0.
        """
        self._measurements.add(record)
        if due:
            self.resources.gather()
        if self.run_files is not None and self.metrics is not None:
            self.run_files.step(progress, np.asarray(lag), np.asarray(replayed_lag), waited=record.seconds["wait"])
            spent = min(1.0, progress.env_steps / self._config.trainer.total_timesteps)
            self.metrics.step(record, learning_rate=rate, version=progress.policy_version, progress=spent)

    def note_fleet(self, fleet: Mapping[str, Any], progress: Progress) -> None:
        """Record actors that became silent or active again; rank 0 only."""
        if self.run_files is not None:
            self.run_files.note_silent(fleet.get("silent_actors", {}), progress)

    def report(self, progress: Progress, *, rate: float, fleet: Mapping[str, Any]) -> None:
        """Reduce the measurements over all ranks; rank 0 writes the report."""
        report = self._measurements.report(self._updater.objective.coefs)
        if self.run_files is not None:
            self.run_files.report(report, progress, learning_rate=rate, fleet=fleet)
        self._steer(report, progress)
        self._export(report)

    def _steer(self, report: StepReport, progress: Progress) -> None:
        """Change coefficients on all ranks, as rank 0 decides."""
        if not self._steering.active:
            return
        scales, blamed = [0.0] * len(self._steering.losses), {}
        if self.run_files is not None:
            blamed = self.run_files.flags.blamed
            shares = {name: loss.gradient_share for name, loss in report.losses.items()}
            scales = self._steering.wanted(blamed, shares if report.gradients_measured else None)
        moves = self._steering.take(self._ranks.agree(*scales), blamed)
        if self.run_files is not None:
            self.run_files.note_moves(moves, progress)

    def _export(self, report: StepReport) -> None:
        """Update the Prometheus metrics; rank 0 only."""
        if self.run_files is None or self.metrics is None:
            return
        line = self.run_files.last_line
        entropy = line["entropy"]
        summary = {
            "entropy_nats": entropy["nats"],
            "entropy_ratio": entropy["fraction"],
            "explained_variance": line["explained_variance"],
        }
        numbers = {name: math.nan if value is None else value for name, value in summary.items()}
        self.metrics.report(report, {flag: flag in self.run_files.raised for flag in FLAGS}, numbers)
        self.metrics.evaluation(line["eval_return"])
        self.metrics.lines_lost.inc(self.run_files.take_lost_lines())

    def checkpoint_written(self) -> None:
        """Record the time of a checkpoint; rank 0 only."""
        if self.metrics is not None:
            self.metrics.last_checkpoint.set(time.time())

    def checkpoint_failed(self, why: str, progress: Progress, then: str) -> None:
        """Record a failed checkpoint, or with an empty reason the first one written after that; rank 0 only.

        Args:
            why: the reason; empty if the checkpoint was written.
            progress: the run's progress.
            then: what happens after a failure, for the user.
        """
        if self.run_files is None or self.metrics is None or why == self.run_files.failed_checkpoint == "":
            return
        self.run_files.failed_checkpoint = why
        if why:
            self.metrics.checkpoint_failures.inc()
            others = (self._config.run_dir / "checkpoints" / LATEST).exists()
            kept = "the previous one is kept" if others else "there is no other one"
            text = f"checkpoint step-{progress.learner_step} could not be written: {why}; {then}; {kept}"
            log.warning("%s", text)
            self.event("checkpoint_failed", text=text, learner_step=progress.learner_step)
        else:
            text = f"checkpoint step-{progress.learner_step} was written; the disk has space again"
            log.info("%s", text)
            self.event("checkpoint_written_again", text=text, learner_step=progress.learner_step)

    def state(self) -> dict[str, Any]:
        """The state for the checkpoint, as JSON values; rank 0's is restored on all ranks."""
        assert self.run_files is not None, "rank 0 saves"
        gradients = self._measurements.gradients
        return {
            "gradients": None if gradients is None else gradients.tolist(),
            "steering": self._steering.state(),
            "recorder": self.run_files.state(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        gradients = state["gradients"]
        self._measurements.gradients = None if gradients is None else np.asarray(gradients, np.float64)
        self._steering.load(state["steering"])
        if self.run_files is not None:
            self.run_files.load(state["recorder"])
