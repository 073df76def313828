"""The learner's loop: take a batch, apply the losses, publish, report, save; until the budget is spent or a stop is asked."""

from __future__ import annotations

import copy
import logging
import math
import os
import signal
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, cast

import numpy as np
import torch

from agent.model import AgentModel
from agent.settings import AgentSettings
from agent.spec import AgentSpec
from learner.checkpoint import Progress, restore, save
from learner.distributed import Ranks, joined
from learner.inputs import to_inputs
from learner.loss import Context
from learner.metrics import LearnerMetrics
from learner.normaliser import Normaliser
from learner.plan import make_plan
from learner.publish import pack
from learner.recorder import Recorder
from learner.redflags import FLAGS
from learner.report import Reporter, StepReport
from learner.settings import TrainerSettings
from learner.steering import Steering
from learner.step import Record, Updater, freeze_unused
from protocol.channels import BatchClient, ControlClient, Delivery, WeightsPublisher
from protocol.endpoints import write_endpoint
from protocol.errors import RunError, UserError
from protocol.http import HttpServer, Pages
from protocol.settings import MetricsSettings
from protocol.trajectory import Array

log = logging.getLogger("oatmill.learner")

JOIN_TIMEOUT_S = 120.0
POLL_S = 0.5
FLUSH_S = 5.0
MAX_BAD_STEPS = 3


@dataclass(frozen=True)
class LearnerConfig:
    """Everything that a learner process is given.

    Attributes:
        trainer: the update and its losses.
        agent: the network.
        metrics: what is reported.
        joining: the settings that must agree with the run's server.
        address: the run's control address.
        run_dir: where reports and checkpoints go.
        resume: start from the newest checkpoint.
    """

    trainer: TrainerSettings
    agent: AgentSettings
    metrics: MetricsSettings
    joining: Mapping[str, Any]
    address: str
    run_dir: Path
    resume: bool = False


def run(config: LearnerConfig) -> None:
    """Train until the budget is spent or the run is stopped; then save and leave.

    Raises:
        UserError: if the settings cannot work.
        RunError: if no data arrives in time, or updates stay non-finite.
    """
    torch.set_num_threads(config.trainer.threads)
    with joined(config.trainer) as ranks, ExitStack() as stack:
        learner = Learner(config, ranks, stack)
        learner.train()
        learner.finish()


def make_updater(config: LearnerConfig, spec: AgentSpec, ranks: Ranks) -> Updater:
    """The networks, alike on all ranks, and what updates them."""
    trainer = config.trainer
    torch.manual_seed(trainer.seed)
    plan = make_plan(trainer, config.agent, spec.spaces.action)
    model = AgentModel(spec).to(ranks.device)
    prior = copy.deepcopy(model).requires_grad_(requires_grad=False)
    freeze_unused(model, plan)
    cmpo = trainer.losses.cmpo
    context = Context(
        trainer=trainer,
        model=model,
        prior=prior,
        reducer=ranks.reducer,
        normaliser=Normaliser(cmpo.variance_decay, cmpo.variance_eps, ranks.reducer),
        generator=torch.Generator(ranks.device).manual_seed(trainer.seed + 1 + ranks.rank),
    )
    if trainer.compile:
        model.compile()
    return Updater(plan, context, ranks.wrap(model), config.metrics)


class Learner:
    """One rank.

    Args:
        config: what it was given.
        ranks: which one of how many it is.
        stack: closes what it opens.
    """

    def __init__(self, config: LearnerConfig, ranks: Ranks, stack: ExitStack) -> None:
        self.config, self.ranks = config, ranks
        self.stop_asked = False
        description = {"config": dict(config.joining), "rank": ranks.rank, "world": ranks.world_size}
        self.control = ControlClient(config.address, role="learner", description=description)
        stack.callback(self.control.close)
        welcome = self.control.join(JOIN_TIMEOUT_S, wait_for_spaces=True)
        self.install_signals()  # only now: before there is nothing to save, and a signal may end the process at once
        assert welcome.spaces is not None
        self.spec = AgentSpec(welcome.spaces, config.agent)
        self.updater = make_updater(config, self.spec, ranks)
        progress = restore(config.run_dir / "checkpoints", self.updater) if config.resume else Progress()
        # A version is never used again, whichever of the two has seen the higher one.
        self.progress = progress._replace(policy_version=max(progress.policy_version, welcome.policy_version) + 1)
        if self.progress.env_steps >= config.trainer.total_timesteps:
            raise UserError(
                f"the checkpoint has trained {self.progress.env_steps} env steps already; "
                f"raise trainer.total_timesteps above that to go on, got {config.trainer.total_timesteps}"
            )
        self.batches = BatchClient(
            welcome.endpoints["batches"],
            rank=ranks.rank,
            world=ranks.world_size,
            batch_size_total=config.trainer.batch_size,
        )
        stack.callback(self.batches.close)
        self.reporter = Reporter(self.updater.plan.losses, ranks.reducer)
        self.steering = Steering(config.trainer, self.updater.plan.losses, self.updater.context.scales)
        self.recorder: Recorder | None = None
        self.metrics: LearnerMetrics | None = None
        self.publisher: WeightsPublisher | None = None
        if ranks.first:
            self.open_first_rank(welcome.endpoints["weights"], stack)
        self.began = time.monotonic() - self.progress.seconds
        self.fleet: Mapping[str, Any] = {}
        self.bad_steps = 0
        self.saved_at = self.progress.learner_step if config.resume else -1

    def install_signals(self) -> None:
        """SIGTERM and SIGINT ask for an orderly end: a checkpoint, then exit 0."""

        def ask(_signal: int, _frame: FrameType | None) -> None:
            self.stop_asked = True

        signal.signal(signal.SIGTERM, ask)
        signal.signal(signal.SIGINT, ask)

    def open_first_rank(self, weights_address: str, stack: ExitStack) -> None:
        """What only rank 0 has: files, metrics, the publisher."""
        config = self.config
        sizes = self.spec.spaces.action.sizes
        self.recorder = Recorder(config.run_dir, sum(math.log(size) for size in sizes), config.trainer.total_timesteps)
        self.metrics = LearnerMetrics()
        pages = Pages(self.metrics.registry, self.healthy, lambda: True)
        server = HttpServer(config.metrics.host, config.metrics.port, pages)
        stack.callback(server.close)
        self.publisher = WeightsPublisher(weights_address)
        stack.callback(self.publisher.close)
        self.publisher.push(pack(self.updater.context.model, self.progress.policy_version, config.trainer.weights_dtype))
        # No actor acts before it has these, and until the connection is up nothing leaves by itself.
        self.publisher.flush(FLUSH_S)
        write_endpoint(config.run_dir, "learner", {"pid": os.getpid(), "metrics": server.url})

    def healthy(self) -> bool:
        """Whether a learner step ended within the time that a batch may take to arrive."""
        return time.monotonic() - self.began - self.progress.seconds < self.config.trainer.data_timeout

    def train(self) -> None:
        """Learner steps until all ranks agree to end."""
        while self.progress.env_steps < self.config.trainer.total_timesteps:
            started = time.perf_counter()
            delivery = self.next_batch()
            if delivery is None:
                return
            self.learn(delivery, waited=time.perf_counter() - started)
            if self.config.trainer.on_red_flag == "stop" and self.ranks.agree(float(self.flagged()))[0]:
                log.warning("stopping: %s", self.recorder.raised if self.recorder else "rank 0 raised a red flag")
                return

    def flagged(self) -> bool:
        """Whether rank 0 has a red flag raised."""
        return self.recorder is not None and bool(self.recorder.raised)

    def next_batch(self) -> Delivery | None:
        """The next batch, once every rank has its own; None if any rank was asked to stop.

        Raises:
            RunError: if no batch came in time.
        """
        self.batches.request(self.progress.learner_step)
        deadline = time.monotonic() + self.config.trainer.data_timeout
        delivery: Delivery | None = None
        while True:
            delivery = delivery or self.batches.poll(POLL_S if self.ranks.world_size == 1 else POLL_S / 10)
            self.control.heartbeat({"learner_step": self.progress.learner_step, "env_steps": self.progress.env_steps})
            stop = self.stop_asked or self.control.state.stop or (delivery is not None and delivery.stop)
            have, stops, late = self.ranks.agree(delivery is not None, stop, time.monotonic() > deadline)
            if stops:
                return None
            if have == self.ranks.world_size:
                return delivery
            if late:
                raise RunError(
                    f"no batch of {self.config.trainer.batch_size} trajectories arrived within "
                    f"{self.config.trainer.data_timeout:g} s; look at the actors' logs, or raise trainer.data_timeout"
                )

    def learn(self, delivery: Delivery, *, waited: float) -> None:
        """One learner step: update, publish, hand the batch back, report, save."""
        trainer, batch = self.config.trainer, delivery.batch
        rate = self.learning_rate()
        step = self.progress.learner_step + 1
        (fresh,) = self.ranks.agree(float(batch.valid[batch.fresh].sum()))
        env_steps = self.progress.env_steps + int(fresh)
        last = env_steps >= trainer.total_timesteps
        reported = last or step == 1 or step % self.config.metrics.report_every == 0
        inputs = to_inputs(batch, self.spec, trainer, self.ranks.device)
        record = self.updater.learn(cast("Mapping[str, torch.Tensor]", inputs), learning_rate=rate, report=reported)
        record.seconds["wait"] = waited
        lag = self.progress.policy_version - batch.policy_version
        fresh_lag, replayed_lag = lag[batch.fresh], lag[~batch.fresh]
        self.progress = Progress(step, env_steps, self.progress.policy_version + 1, time.monotonic() - self.began)
        self.publish(record)
        self.batches.consumed(batch.batch_id, self.progress.policy_version)
        self.fleet = delivery.fleet
        self.note(record, fresh_lag, replayed_lag, rate)
        if reported:
            self.report(rate)
        self.check_finite(record)
        if step % trainer.checkpoint_every == 0:
            self.save()

    def learning_rate(self) -> float:
        """Of the next learner step: constant, or falling to 0 over the budget."""
        settings = self.config.trainer.optimizer
        if settings.schedule == "constant":
            return settings.learning_rate
        return settings.learning_rate * max(0.0, 1 - self.progress.env_steps / self.config.trainer.total_timesteps)

    def publish(self, record: Record) -> None:
        """Hand the new weights to the hub; rank 0 only."""
        if self.publisher is None:
            return
        started = time.perf_counter()
        weights = pack(self.updater.context.model, self.progress.policy_version, self.config.trainer.weights_dtype)
        self.publisher.push(weights)
        record.seconds["publish"] = time.perf_counter() - started

    def note(self, record: Record, lag: Array, replayed_lag: Array, rate: float) -> None:
        """Count a learner step."""
        self.reporter.add(record)
        if self.recorder is not None and self.metrics is not None:
            self.recorder.step(self.progress, np.asarray(lag), np.asarray(replayed_lag))
            self.metrics.step(record, learning_rate=rate, version=self.progress.policy_version)

    def report(self, rate: float) -> None:
        """Reduce what was measured over all ranks; rank 0 writes it down."""
        report = self.reporter.report(self.updater.objective.coefs)
        if self.recorder is not None:
            self.recorder.report(report, self.progress, learning_rate=rate, fleet=self.fleet)
        self.steer(report)
        self.export(report)

    def steer(self, report: StepReport) -> None:
        """Move coefficients as rank 0 decides; all ranks go on with the same ones."""
        if not self.steering.active:
            return
        scales, blamed = [0.0] * len(self.steering.losses), {}
        if self.recorder is not None:
            blamed = self.recorder.flags.blamed
            shares = {name: loss.gradient_share for name, loss in report.losses.items()}
            scales = self.steering.wanted(blamed, shares if report.gradients_measured else None)
        moves = self.steering.take(self.ranks.agree(*scales), blamed)
        if self.recorder is not None:
            self.recorder.note_moves(moves, self.progress)

    def export(self, report: StepReport) -> None:
        """Bring a report to Prometheus; rank 0 only."""
        if self.recorder is None or self.metrics is None:
            return
        line = self.recorder.last_line
        entropy = line["entropy"]
        summary = {
            "entropy_nats": entropy["nats"],
            "entropy_ratio": entropy["fraction"],
            "explained_variance": line["explained_variance"],
        }
        numbers = {name: math.nan if value is None else value for name, value in summary.items()}
        self.metrics.report(report, {flag: flag in self.recorder.raised for flag in FLAGS}, numbers)

    def check_finite(self, record: Record) -> None:
        """End the run if no update of several learner steps in a row could be applied; the last checkpoint is good."""
        self.bad_steps = self.bad_steps + 1 if record.skipped == len(record.norms) else 0
        if self.bad_steps >= MAX_BAD_STEPS:
            raise RunError(
                f"no update of the last {MAX_BAD_STEPS} learner steps was finite; go back to "
                f"{self.config.run_dir}/checkpoints/latest and lower trainer.optimizer.learning_rate or a coefficient"
            )

    def save(self) -> None:
        """Write a checkpoint; rank 0 only."""
        if self.ranks.first and self.saved_at != self.progress.learner_step:
            folder = self.config.run_dir / "checkpoints"
            save(folder, self.updater, self.progress, keep=self.config.trainer.keep_checkpoints)
            self.saved_at = self.progress.learner_step

    def finish(self) -> None:
        """Save, write the summary, and see the last weights off."""
        if self.reporter.records:
            self.report(self.learning_rate())
        if self.progress.learner_step:
            self.save()
        if self.recorder is not None and self.publisher is not None:
            self.recorder.summary(self.progress)
            self.publisher.flush(FLUSH_S)
        log.info("trained %d env steps in %d learner steps", self.progress.env_steps, self.progress.learner_step)
