"""The learner's loop: get a batch, update, publish weights, report and save, until the run ends."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, NoReturn

import torch

from agent.spec import AgentSpec
from learner.budget import check_budget_left
from learner.checkpoints.files import saved_encoder
from learner.checkpoints.keeper import Keeper
from learner.device import learner_threads
from learner.pack_weights import pack
from learner.progress import Progress
from learner.ranks.meeting import joined
from learner.ranks.reduce import Ranks
from learner.reporting.rank_reporting import RankReporting
from learner.reporting.silent_actors import silent_actors
from learner.rewinds import Rewinds
from learner.setup import LearnerConfig, make_updater
from learner.update.batch_training import BatchTraining
from learner.update.schedules import learning_rate
from learner.update.updater import Record
from oatmill.errors import OatmillError, RankStoppedError, RunError
from oatmill.files.endpoints import write_endpoint
from oatmill.process.awake_clock import AwakeClock
from oatmill.process.http import HttpServer, Pages
from oatmill.process.memory import MemoryLimit
from oatmill.process.signals import StopFlag
from oatmill.process.watchdog import Watchdog
from oatmill.settings.flat import AUTO_ENCODERS, ENCODER
from protocol.channels import BatchClient, ControlClient, Delivery, WeightsPublisher, Welcome

log = logging.getLogger("oatmill.learner")

JOIN_TIMEOUT_S = 120.0
POLL_S = 0.5
ASK_S = 2.0
"""The longest wait for the hub's answer if the run fails because no data arrives."""
FLUSH_S = 5.0
SAVE_AGAIN_S = 1.0
"""Between two attempts to write the last checkpoint."""
STOPPED_WITHIN_S = 30.0
"""A learner that was asked to stop tries for this long to write its last checkpoint. After 60 s it is killed."""
SAME_SIGNAL_S = 1.0
"""A signal to all ranks of a host reaches all of them within this time."""


def run(config: LearnerConfig) -> None:
    """Train until the budget is spent or the run is stopped, and save a checkpoint at the end.

    Raises:
        UserError: if the settings are invalid.
        RunError: if no data arrives in time, or updates stay non-finite.
        RankStoppedError: if only another rank was asked to stop.
    """
    with joined(config.trainer) as ranks, ExitStack() as stack:
        learner = Learner(config, ranks, stack)
        model = learner.updater.context.model
        torch.set_num_threads(learner_threads(config.trainer, config.settings, model, half=model.in_bfloat16))
        learner.train()
        learner.finish()
    if learner.follows_a_signal and not learner.stop.is_set_within(SAME_SIGNAL_S):
        raise RankStoppedError(
            "another learner rank was asked to stop, so all ranks have ended; start all of them again with --resume, "
            "or stop the whole run with `oatmill stop`"
        )


class Learner:
    """One learner rank.

    Args:
        config: the learner's configuration.
        ranks: the group of ranks.
        stack: closes everything that this rank opens.

    Attributes:
        follows_a_signal: whether training has ended because a rank, this one or another, got a signal.
    """

    follows_a_signal = False

    def __init__(self, config: LearnerConfig, ranks: Ranks, stack: ExitStack) -> None:
        encoder = encoder_of(config, ranks)
        description = {"config": {**config.joining, ENCODER: encoder}, "rank": ranks.rank, "world": ranks.world_size}
        self.control = ControlClient(config.address, role="learner", description=description, keys=config.keys)
        stack.callback(self.control.close)
        welcome = self.control.join(JOIN_TIMEOUT_S, wait_for_spaces=True)
        self.stop = StopFlag()  # set up late: until here there is nothing to save, and signals may end the process
        assert welcome.spaces is not None
        self.spec = AgentSpec(welcome.spaces, config.agent)
        if self.spec.depends_on_device:
            self.spec = self.spec.with_encoder(encoder)
            config = replace(config, agent=self.spec.settings, settings=with_encoder(config.settings, encoder))
        self.config, self.ranks = config, ranks
        self.updater = make_updater(config, self.spec, ranks)
        self.training = BatchTraining(self.updater, ranks.device)
        self.welcome = welcome
        memory = MemoryLimit("learner", config.trainer.memory_bytes, setting="trainer.memory_bytes")
        stack.callback(memory.close)
        self.watchdog = Watchdog("learner", config.trainer.hang_timeout)
        stack.callback(self.watchdog.close)
        self.updater.progressed = self.watchdog.beat
        self.reporting = RankReporting(config, ranks, self.updater, self.spec, lambda: self.watchdog.healthy)
        stack.callback(self.reporting.close)
        keep, settings = config.trainer.keep_checkpoints, config.settings
        self.keeper = Keeper(config.run_dir, keep=keep, updater=self.updater, ranks=ranks, settings=settings)
        self.rewinds = Rewinds(config, ranks, self.keeper, self.reporting)
        progress = self.rewinds.load() if config.resume else Progress()
        self.keeper.sweep()
        # A version number must never be used twice, so the highest one that any rank has seen counts.
        newest = -self.ranks.lowest(-max(progress.policy_version, welcome.policy_version))[0]
        self.progress = progress._replace(policy_version=int(newest) + 1)
        check_budget_left(self.progress.env_steps, config.trainer)
        self.batches = self.open_batches(resumed_from=progress.policy_version)
        stack.callback(self.close_batches)
        self.publisher: WeightsPublisher | None = None
        if ranks.first:
            self.open_first_rank(welcome, stack)
        self.began = time.monotonic() - self.progress.seconds
        self.fleet: Mapping[str, Any] = {}
        self.rejoined = self.save_attempts = 0

    def open_batches(self, *, resumed_from: int) -> BatchClient:
        """Connect to ingest; it serves the data again that trained versions after `resumed_from`."""
        return BatchClient(
            self.welcome.endpoints["batches"],
            welcome=self.welcome,
            rank=self.ranks.rank,
            world=self.ranks.world_size,
            batch_size_total=self.config.trainer.batch_size,
            resumed_from=resumed_from,
            mark=self.rewinds.mark,
        )

    def close_batches(self) -> None:
        """Close the newest connection to ingest."""
        self.batches.close()

    def open_first_rank(self, welcome: Welcome, stack: ExitStack) -> None:
        """Open what only rank 0 has: files, metrics, the publisher."""
        config, metrics = self.config, self.reporting.metrics
        assert metrics is not None, "rank 0 has metrics"
        pages = Pages(metrics.registry, lambda: self.watchdog.healthy, lambda: True)
        server = HttpServer(config.metrics.host, config.metrics.port, pages)
        stack.callback(server.close)
        self.publisher = WeightsPublisher(welcome.endpoints["weights"], welcome=welcome)
        stack.callback(self.publisher.close)
        self.publisher.push(pack(self.updater.acting_network, self.progress.policy_version, config.trainer.weights_dtype))
        # Actors wait for these weights. The flush waits until the connection is up and they are sent.
        self.publisher.flush(FLUSH_S)
        run_files = self.reporting.run_files
        assert run_files is not None, "rank 0 has one"
        write_endpoint(config.run_dir, "learner", {"pid": os.getpid(), "metrics": server.url}, run_files.needed)

    def train(self) -> None:
        """Run learner steps until the budget is spent or a rank is asked to stop."""
        while self.progress.env_steps < self.config.trainer.total_timesteps:
            started = time.perf_counter()
            delivery = self.next_batch()
            if delivery is None:
                return
            self.learn(delivery, waited=time.perf_counter() - started)
            self.watchdog.started()  # the first learner step may have compiled the network
            if self.config.trainer.on_red_flag == "stop" and self.ranks.agree(float(self.reporting.flagged))[0]:
                run_files = self.reporting.run_files
                log.warning("stopping: %s", run_files.raised if run_files else "rank 0 raised a red flag")
                return

    def next_batch(self) -> Delivery | None:
        """Wait until every rank has its batch; None if any rank was asked to stop.

        Raises:
            RunError: if no batch arrives within `trainer.data_timeout`.
        """
        self.batches.request(self.progress.learner_step)
        clock, timeout_s = AwakeClock(), self.config.trainer.data_timeout
        deadline = clock.now() + timeout_s
        delivery: Delivery | None = None
        while True:
            self.watchdog.beat()  # waiting is not a hang; trainer.data_timeout limits it
            delivery = delivery or self.batches.poll(POLL_S if self.ranks.world_size == 1 else POLL_S / 10)
            self.tell_hub()
            over = self.control.state.stop or (delivery is not None and delivery.stop)
            if self.control.state.desired_actors == 0:  # `oatmill scale --actors 0` pauses the run
                deadline = clock.now() + timeout_s
            late = clock.now() > deadline
            # All ranks decide together: they wait until each has its batch, and stop if one is to stop.
            all_have_one, no_signal, not_over, all_in_time = self.ranks.lowest(
                delivery is not None, not self.stop.is_set, not over, not late
            )
            if not (no_signal and not_over):
                self.follows_a_signal = bool(not_over)
                return None
            if all_have_one:
                return delivery
            if not all_in_time:
                give_up(self, timeout_s)

    def tell_hub(self, *, last: bool = False) -> None:
        """Send a heartbeat (the last one at once), and the newest weights again if the hub was restarted."""
        progress = self.progress
        report = {"learner_step": progress.learner_step, "env_steps": progress.env_steps, "save_attempts": self.save_attempts}
        self.control.heartbeat(report | {"policy_version": progress.policy_version}, force=last)
        if self.control.rejoined > self.rejoined:
            self.rejoined = self.control.rejoined
            if self.publisher is not None:
                self.publisher.push_again()

    def learn(self, delivery: Delivery, *, waited: float) -> None:
        """Run one learner step: update, publish, acknowledge the batch, report, save."""
        trainer, batch = self.config.trainer, delivery.batch
        step = self.progress.learner_step + 1
        (fresh,) = self.ranks.agree(float(batch.valid[batch.fresh].sum()))
        env_steps = self.progress.env_steps + int(fresh)
        saved = step % trainer.checkpoint_every == 0
        reported = self.is_reported(step, env_steps) or saved
        record = self.training.train(
            batch, env_steps=self.progress.env_steps, report=reported, priorities=self.batches.wants_priorities
        )
        rate = self.updater.optimizer.learning_rate
        record.seconds["wait"] = waited
        finite, sound, due = self.ranks.lowest(record.skipped == 0, self.updater.weights_finite(), self.reporting.resources.due)
        lag = self.progress.policy_version - batch.policy_version
        self.progress = Progress(step, env_steps, self.progress.policy_version + 1, time.monotonic() - self.began)
        if sound:
            self.publish(record)
        priorities = None if record.priorities is None else record.priorities.cpu().numpy()
        self.batches.consumed(batch.batch_id, self.progress.policy_version, priorities)
        self.fleet = delivery.fleet
        self.reporting.note_fleet(self.fleet, self.progress)
        self.reporting.note(record, self.progress, lag=lag[batch.fresh], replayed_lag=lag[~batch.fresh], rate=rate, due=due)
        if reported:
            self.report()
        if self.rewinds.note(batch, record, step, finite=bool(finite), sound=bool(sound)):
            self.rewind(sound=bool(sound))
        elif saved:
            self.save()

    def is_reported(self, step: int, env_steps: int) -> bool:
        """Whether a learner step is reported: the first, the last, and every `metrics.report_every`th."""
        last = env_steps >= self.config.trainer.total_timesteps
        return last or step == 1 or step % self.config.metrics.report_every == 0

    def rewind(self, *, sound: bool) -> None:
        """Load the last checkpoint again; see `Rewinds.rewind`.

        Raises:
            RunError: if there is no checkpoint, or too many rewinds did not help.
        """
        if self.reporting.pending:
            self.report()  # counts the skipped updates
        self.progress = self.rewinds.rewind(self.progress, sound=sound, reopen=self.reopen_batches)
        self.publish(None)

    def reopen_batches(self, restored: Progress) -> None:
        """Connect to ingest again after a checkpoint was loaded."""
        self.batches.close()
        self.ranks.lowest(1)  # a barrier: all old sessions must end before a new one starts
        self.batches = self.open_batches(resumed_from=restored.policy_version)

    def publish(self, record: Record | None) -> None:
        """Send the new weights to the hub; rank 0 only."""
        if self.publisher is None:
            return
        started = time.perf_counter()
        weights = pack(self.updater.acting_network, self.progress.policy_version, self.config.trainer.weights_dtype)
        self.publisher.push(weights)
        if record is not None:
            record.seconds["publish"] = time.perf_counter() - started

    def report(self) -> None:
        """Report all learner steps since the last report."""
        self.reporting.report(self.progress, rate=learning_rate(self.config.trainer, self.progress.env_steps), fleet=self.fleet)

    def save(self, *, then: str = "training continues") -> bool:
        """Write a checkpoint; returns whether it was written. All ranks call it.

        Args:
            then: what happens if it is not written, for the user; empty if the user knows.
        """
        self.save_attempts += 1
        episodes = self.fleet.get("episode_return")
        saved = self.keeper.save(self.progress, state=self.reporting.state, episode_return=episodes, batches=self.batches)
        if saved:
            self.rewinds.in_a_row = 0
            self.reporting.checkpoint_written()
        if saved or then:
            self.reporting.checkpoint_failed(self.keeper.failure, self.progress, then)
        return saved

    def finish(self) -> None:
        """Save a checkpoint, write the summary, and send the last weights.

        Raises:
            RunError: if the checkpoint could not be written.
        """
        if self.reporting.pending:
            self.report()
        saved = not self.progress.learner_step or save_at_last(self)
        run_files = self.reporting.run_files
        if run_files is not None and self.publisher is not None:
            run_files.summary(self.progress)
            self.publisher.flush(FLUSH_S)
            self.tell_hub(last=True)
        if not saved:
            others = self.keeper.has_checkpoint
            again = "continue from the previous one with --resume" if others else "start again: there is no other one"
            raise RunError(
                f"the last checkpoint could not be written: {self.keeper.failure or 'see rank 0'}; free disk space and {again}"
            )
        log.info("trained %d env steps in %d learner steps", self.progress.env_steps, self.progress.learner_step)


def give_up(learner: Learner, timeout_s: float) -> NoReturn:
    """End the run because no batch has arrived in time; a checkpoint is saved first."""
    silent = who_is_silent(learner.control, timeout_s)
    if learner.progress.learner_step:
        learner.save(then="the run ends")
    raise RunError(
        f"no batch of {learner.config.trainer.batch_size} trajectories arrived within {timeout_s:g} s; "
        f"{silent}check the actors' logs, or raise trainer.data_timeout"
    )


def save_at_last(learner: Learner) -> bool:
    """Write the last checkpoint, and wait until that is possible; returns whether it was written. All ranks call it.

    A learner that was asked to stop waits for at most `STOPPED_WITHIN_S`.
    """
    saved = learner.save(then="the run waits until it can be written: free disk space, or stop the run")
    clock, deadline = AwakeClock(), math.inf
    while not saved and not learner.ranks.agree(clock.now() > deadline)[0]:
        time.sleep(SAVE_AGAIN_S)
        learner.watchdog.beat()
        learner.tell_hub()
        if learner.stop.is_set or learner.control.state.stop:
            deadline = min(deadline, clock.now() + STOPPED_WITHIN_S)
        saved = learner.save(then="")
    return saved


def encoder_of(config: LearnerConfig, ranks: Ranks) -> str:
    """The run's `agent.encoder`, with `auto` decided: that of the checkpoint, or `auto_cpu` if all ranks train on CPUs."""
    if config.agent.encoder != "auto":
        return config.agent.encoder
    saved = saved_encoder(config.run_dir / "checkpoints") if config.resume else None
    (on_cpus,) = ranks.lowest(ranks.device.type == "cpu")
    return saved if saved in AUTO_ENCODERS else "auto_cpu" if on_cpus else "auto"


def with_encoder(settings: Mapping[str, Any], encoder: str) -> dict[str, Any]:
    """A run's settings with the encoder that was decided on."""
    return {**settings, "agent": {**settings.get("agent", {}), "encoder": encoder}}


def who_is_silent(control: ControlClient, timeout_s: float) -> str:
    """A message that names actors without data for `timeout_s`; empty without an answer."""
    try:
        status = control.request("status", {}, ASK_S)
    except OatmillError:
        return ""
    return silent_actors(status, timeout_s)
