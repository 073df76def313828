"""The main loop of a run: watches all its processes until the learner has ended, and then ends the others.

The restarts themselves are elsewhere: `ActorPool` restarts actors, `LearnerService` the learner and `ReplayService` the replay
server. The supervisor calls them in turn, asks the hub for the run's status, kills a learner that hangs, passes on stop
requests, and ends the run if one of them gives up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Generic

from oatmill.errors import OatmillError, RunError, UserError
from oatmill.process.awake_clock import AwakeClock
from oatmill.process.exit_codes import BAD_INPUT
from oatmill.process.signals import Interrupts
from oatmill.process.watchdog import START_FACTOR, Watchdog
from runner.local.actor_pool import ActorGivenUpError, ActorPool, numbers_outside
from runner.local.job import Account, Job
from runner.local.launcher import Launcher, LocalLauncher, P, Process
from runner.local.reporter import FolderReporter, Reporter
from runner.local.services.learner import LearnerService
from runner.local.services.replay import ReplayService
from runner.local.stop_request import StopRequest
from runner.operator_client import OperatorClient, operator_client
from runner.settings import RunSettings

TURN_S = 0.1
STATUS_EVERY_S = 1.0
ACTORS_LEAVE_WITHIN_S = 10.0
LEDGER_WITHIN_S = 3.0
"""The longest wait for the final ledger after the last actor has ended."""
LAST_STATUS_WITHIN_S = 2.0
"""If a run fails, the longest wait for the hub's newest ledger."""
TERM_GRACE_S = 5.0
LAST_LINES = 15


def supervise(
    job: Job, account: Account, interrupts: Interrupts, launcher: Callable[..., LocalLauncher] = LocalLauncher
) -> None:
    """Run a job from this machine. When this returns or raises, all processes of the job have ended.

    Args:
        job: the job to run.
        account: updated during the run, so that it is also complete if the run fails.
        interrupts: counts Ctrl-C and SIGTERM.
        launcher: makes the launcher, with the arguments of LocalLauncher.

    Raises:
        UserError: if a process reports bad input before anything was trained.
        RunError: if the run fails.
    """
    with operator_client(job.addresses.control, job.keys) as hub:
        Supervisor(
            launcher(job, stopped=lambda: account.stopped or interrupts.count > 0),
            FolderReporter(job.folder, job.observer),
            hub,
            settings=job.settings,
            account=account,
            interrupts=interrupts,
            resume=job.resume,
        ).run(job.folder.log("supervisor", 0))


class Supervisor(Generic[P]):
    """Watches the processes of one run; see the module.

    Args:
        launcher: starts and ends the processes.
        reporter: receives events and status.
        hub: the connection to the run's hub.
        settings: the run's settings.
        account: updated during the run.
        interrupts: counts Ctrl-C and SIGTERM.
        resume: whether the first learner starts from the newest checkpoint.
    """

    def __init__(
        self,
        launcher: Launcher[P],
        reporter: Reporter,
        hub: OperatorClient,
        *,
        settings: RunSettings,
        account: Account,
        interrupts: Interrupts,
        resume: bool = False,
    ) -> None:
        self.launcher, self.reporter, self.hub = launcher, reporter, hub
        self.settings, self.account, self.resume = settings, account, resume
        self.clock = AwakeClock()
        self.stop = StopRequest(interrupts, hub, reporter, self.clock, self._begin_stop, has_checkpoint=launcher.has_checkpoint)
        self.services: dict[str, P] = {}
        self.replay = ReplayService(
            launcher.start_replay,
            durable=settings.replay.acknowledge == "durable",
            max_restarts=settings.replay.max_restarts,
            notice=reporter.event,
            listens=launcher.replay_listens,
        )
        self.learner = LearnerService(
            launcher.start_learner,
            has_checkpoint=launcher.has_checkpoint,
            max_restarts=settings.trainer.max_restarts,
            notice=reporter.event,
        )
        self.pool = ActorPool(
            launcher,
            settings=settings.actors,
            notice=reporter.event,
            clock=self.clock,
        )
        self._next_status = 0.0
        self._seen: tuple[int, Any, Any] = (0, None, None)  # the learner's process, its learner step, its attempts to save
        self._moved, self._stepped = False, 0.0

    def run(self, log: Path | None = None) -> None:
        """Run until the budget is spent or a stop is requested, and end every process.

        Args:
            log: the file for stack traces if this process hangs; None for standard error.

        Raises:
            UserError: if a process reports bad input before anything was trained.
            RunError: if the run fails.
        """
        try:
            self.start()
            with ExitStack() as stack:
                stacks = None if log is None else stack.enter_context(log.open("a"))
                limit = self.settings.trainer.hang_timeout
                watchdog = stack.enter_context(closing(Watchdog("supervisor", limit, log=stacks, native=False)))
                self.watch(watchdog)
                watchdog.pause()
            self.close_books()
        except RunError:
            self.take_last_status()
            raise
        except FileNotFoundError:
            self.check()
            raise
        finally:
            self.account.restarts = self.pool.restarts
            self.end()

    def start(self) -> None:
        """Start all processes at the same time; they wait for each other."""
        self.services["replay"] = self.replay.begin(self.clock.now())
        self.services["learner"] = self.learner.begin(resume=self.resume)
        self.pool.follow(self.settings.actors.count)
        self.pool.turn()
        self._record()

    def watch(self, watchdog: Watchdog) -> None:
        """Restart crashed processes and follow the hub's status until the learner has ended.

        Args:
            watchdog: checks that every turn ends in time.

        Raises:
            UserError: if a process reports bad input before anything was trained.
            RunError: if the run fails.
        """
        while (learner := self.learner.turn(reports=self.reporter.reports, stopping=self.account.stopped)) is not None:
            watchdog.started()
            self.check()
            self.services["learner"] = learner
            self.stop.take_interrupts(learner)
            self._look_after_replay()
            self._ask_hub()
            self._look_after_actors()
            self._record()
            watchdog.pause()  # a user's observer may block
            self.reporter.pass_on()
            time.sleep(TURN_S)
        if not self.stop.made:  # the learner may have been stopped by a request that this process has not seen yet
            self.stop.check_hub_status(self._status())
        self.reporter.pass_on()
        if not self._ended_well(self.services["learner"]):
            raise self._failure(self.services["learner"])

    def close_books(self) -> None:
        """Stop the actors in order and get the hub's last status, whose ledger is complete."""
        self.pool.ending = True
        self.hub.stop()
        deadline = self.clock.now() + ACTORS_LEAVE_WITHIN_S
        while not self.pool.all_gone() and self.clock.now() < deadline:
            time.sleep(TURN_S / 5)
        self.pool.end(grace_s=TERM_GRACE_S)
        deadline = self.clock.now() + LEDGER_WITHIN_S
        while not self._replay_gone():
            status = self._status()
            self.account.status = status or self.account.status
            if (status is not None and status["live"] == 0) or self.clock.now() > deadline:
                return
            time.sleep(TURN_S / 2)

    def take_last_status(self) -> None:
        """Ask the hub for its newest status after the run has failed."""
        deadline = self.clock.now() + LAST_STATUS_WITHIN_S
        while not self._replay_gone() and self.clock.now() < deadline:
            status = self._status()
            if status is not None:
                self.account.status = status
                return
            time.sleep(TURN_S)

    def end(self) -> None:
        """End all remaining processes within a time limit. Safe to call at any point."""
        self.pool.ending = True
        gone = self.launcher.problem() is not None
        grace_s = 0.0 if gone else TERM_GRACE_S  # a learner would create the run folder again to save
        self.launcher.end_all([*self.pool.children, *self._running("learner")], grace_s=grace_s)
        self.launcher.end_all(self._running("replay"), grace_s=grace_s)
        if not gone:
            self.pool.turn()
            self.launcher.record({}, [], self.pool.restarts_of)
        self.launcher.close()

    def check(self) -> None:
        """Raise a RunError if the run cannot continue because its folder is gone."""
        if (problem := self.launcher.problem()) is not None:
            raise RunError(problem)

    def _record(self) -> None:
        restarts = {"learner": self.learner.restarts, "replay": self.replay.restarts}
        services = {child: restarts.get(role, 0) for role, child in self.services.items()}
        self.launcher.record(services, self.pool.children, self.pool.restarts_of)

    def _running(self, role: str) -> list[P]:
        return [self.services[role]] if role in self.services else []

    def _begin_stop(self) -> None:
        self.account.stopped = self.pool.ending = True

    def _replay_gone(self) -> bool:
        return "replay" not in self.services or self.services["replay"].exit_code is not None

    def _status(self) -> Mapping[str, Any] | None:
        """The hub's status; None if it does not answer. It does not wait if the hub's process has ended."""
        return self.hub.status(unless=self._replay_gone)

    def _ask_hub(self) -> None:
        now = self.clock.now()
        if silence := self.replay.silence(now):
            raise RunError(f"the replay server {silence}; its log is {self.services['replay'].log}")
        if now < self._next_status or not self.replay.ready:
            return
        self._next_status = now + STATUS_EVERY_S
        status = self._status()
        if status is None:
            return
        self.replay.answered(self.clock.now())
        self.account.status = status = self.replay.brief(self.hub, status, stopping=self.account.stopped)
        self.reporter.heard(status)
        self.pool.heard(status["actors"])
        self._watch_learner(status["learner"])
        self.stop.check_hub_status(status)
        self.pool.follow(status["own_actors"], numbers_outside(status["machines"]))

    def _watch_learner(self, report: Mapping[str, Any]) -> None:
        """Kill a learner that hangs, so that it is restarted, if its own watchdog has not ended it."""
        now, child, trainer = self.clock.now(), self.services["learner"], self.settings.trainer
        learner_step = report.get("learner_step")
        seen = (child.pid, learner_step, report.get("save_attempts"))  # at the end it may wait for disk space
        if seen != self._seen:
            self._moved = self._seen[0] == child.pid and self._seen[1] is not None
            self._seen, self._stepped = seen, now
        limit = trainer.hang_timeout * (1.0 if self._moved else START_FACTOR) + trainer.data_timeout
        if learner_step is not None and now - self._stepped > limit:
            self._stepped = now
            text = f"the learner has not finished a learner step for {limit:g} s and gave no reason; it is killed"
            self.reporter.event("learner_hung", text, {"pid": child.pid, "learner_step": learner_step})
            child.kill()

    def _look_after_actors(self) -> None:
        try:
            self.pool.turn()
        except ActorGivenUpError as error:
            self._show_last_lines(error.child)
            raise self._user_or_run_error(error.child, str(error)) from None

    def _look_after_replay(self) -> None:
        """Restart a crashed replay server, even while the run ends, because the learner needs it to save."""
        restarts, child = self.replay.restarts, self.replay.turn(reports=self.reporter.reports, stopping=False)
        if child is None:
            raise self._failure(self.services["replay"])
        if self.replay.restarts > restarts:
            self.replay.answered(self.clock.now())
        self.services["replay"] = child

    def _ended_well(self, learner: Process) -> bool:
        """Whether the learner exited with 0, or was stopped before it was ready to handle signals."""
        return learner.exit_code == 0 or (self.account.stopped and not self._trained() and learner.exit_code != BAD_INPUT)

    def _failure(self, child: Process) -> OatmillError:
        self._show_last_lines(child)
        if child.exit_code == BAD_INPUT and child.error:
            return self._user_or_run_error(child, child.error)
        return RunError(child.failure)

    def _user_or_run_error(self, child: Process, message: str) -> OatmillError:
        """The error for the user: a UserError for bad input before anything was trained."""
        return UserError(message) if child.exit_code == BAD_INPUT and not self._trained() else RunError(message)

    def _show_last_lines(self, child: Process) -> None:
        if child.exit_code != BAD_INPUT or self._trained():
            self.reporter.failed(child.name, child.last_lines(LAST_LINES))

    def _trained(self) -> bool:
        return self.reporter.reports > 0
