"""Runs a replay server, actors and a learner on this machine, watches over them, and ends them all."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from oatmill.errors import OatmillError, RunError, UserError
from oatmill.process.awake_clock import AwakeClock
from oatmill.process.exit_codes import BAD_INPUT
from oatmill.process.signals import Interrupts
from oatmill.process.watchdog import START_FACTOR, Watchdog
from runner.json_lines import JsonLines
from runner.local.actor_pool import ActorGivenUpError, Crew
from runner.local.child import Child, end_all
from runner.local.job import Account, Job
from runner.local.launcher import Roster
from runner.local.learner_service import LearnerPost
from runner.local.replay_service import ReplayPost
from runner.operator_client import OperatorClient, operator_client

TURN_S = 0.1
STATUS_EVERY_S = 1.0
SILENT_S = 60.0
"""A hub that has answered nothing for this long is given up."""
STOP_WITHIN_S = 60.0
"""A learner that was asked to stop finishes its learner step and saves; after this long it is killed."""
STOP_EARLY_WITHIN_S = 5.0
"""The same for a learner that has nothing to save yet."""
ACTORS_LEAVE_WITHIN_S = 10.0
BOOKS_WITHIN_S = 3.0
"""After the last actor has left, the ledger has this long to come out even."""
LAST_WORD_WITHIN_S = 2.0
"""A run that fails asks the hub this long for the newest ledger."""
TERM_GRACE_S = 5.0
LAST_LINES = 15


def supervise(job: Job, account: Account, interrupts: Interrupts) -> None:
    """Run a job to its end; whatever happens, no process of it is left.

    Args:
        job: what is run.
        account: is kept, so that it holds what is known also when the run fails.
        interrupts: counts Ctrl-C and SIGTERM.

    Raises:
        UserError: if a process refuses what was asked before anything was trained.
        RunError: if the run fails.
    """
    with operator_client(job.addresses.control, job.keys) as hub:
        supervisor = Supervisor(job, account, hub, interrupts)
        try:
            supervisor.start()
            with job.folder.log("supervisor", 0).open("a") as stacks:
                with closing(Watchdog("supervisor", job.settings.trainer.hang_timeout, log=stacks, native=False)) as watchdog:
                    supervisor.watch(watchdog)
                    watchdog.pause()
                supervisor.close_books()
        except RunError:
            supervisor.take_last_word()
            raise
        except FileNotFoundError:
            supervisor.check_folder()
            raise
        finally:
            account.restarts = supervisor.crew.restarts
            supervisor.end()


def gone_text(folder: Path) -> str:
    """What is said of a run whose folder is gone."""
    return f"the run folder {folder} was deleted or moved away while the run went on; the run ends"


class Supervisor:
    """One run's processes.

    Args:
        job: what is run.
        account: is kept.
        hub: the line to its hub.
        interrupts: counts Ctrl-C and SIGTERM.
    """

    def __init__(self, job: Job, account: Account, hub: OperatorClient, interrupts: Interrupts) -> None:
        self.job = job
        self.hub = hub
        self.interrupts = interrupts
        self.account = account
        self.roster = Roster(job)
        self.services: dict[str, Child] = {}
        self.replay = ReplayPost(
            self.roster.start_replay,
            durable=job.settings.replay.acknowledge == "durable",
            max_restarts=job.settings.replay.max_restarts,
            notice=self._notice,
            endpoint=self.roster.endpoints / "replay.json",
        )
        self.post = LearnerPost(
            self.roster.start_learner,
            has_checkpoint=(job.folder.path / "checkpoints" / "latest").exists,
            max_restarts=job.settings.trainer.max_restarts,
            notice=self._notice,
        )
        self.clock = AwakeClock()
        self.crew = Crew(
            self.roster.start_actor,
            max_restarts=job.settings.actors.max_restarts,
            hang_timeout=job.settings.actors.hang_timeout,
            notice=self._notice,
            clock=self.clock,
        )
        self.lines = JsonLines(job.folder.metrics)
        self.events = JsonLines(job.folder.path / "events.jsonl")
        self.stop_by: float | None = None
        self._heard = self._next_status = 0.0
        self._seen: tuple[int, Any] = (0, None)  # the learner's process and its learner step
        self._moved, self._stepped = False, 0.0

    def start(self) -> None:
        """Start everything at once: whoever is early waits for the others."""
        self.services["replay"] = self.replay.begin()
        self.services["learner"] = self.post.begin(resume=self.job.resume)
        self.crew.follow(self.job.settings.actors.count)
        self.crew.turn()
        self._heard = self.clock.now()
        self._write()

    def watch(self, watchdog: Watchdog) -> None:
        """Look after the run until the learner has ended well.

        Args:
            watchdog: is told of every turn.

        Raises:
            UserError: if a process refuses what was asked before anything was trained.
            RunError: if the run fails.
        """
        while (learner := self.post.turn(reports=self.lines.count, stopping=self.account.stopped)) is not None:
            watchdog.started()
            self.check_folder()
            self.services["learner"] = learner
            self._take_interrupts()
            self._look_after_replay()
            self._ask_hub()
            self._look_after_actors()
            self._write()
            watchdog.pause()  # a user's own observer may hold this up
            self._tell_observer()
            time.sleep(TURN_S)
        self._hear_of_late_stop()
        self._tell_observer()
        if not self._ended_well(self.services["learner"]):
            raise self._failure(self.services["learner"])

    def _write(self) -> None:
        restarts = {"learner": self.post.restarts, "replay": self.replay.restarts}
        services = {child: restarts.get(role, 0) for role, child in self.services.items()}
        self.roster.write(services, self.crew.children, self.crew.restarts_of)
        for child in (*services, *self.crew.children):
            child.bound_log()

    def close_books(self) -> None:
        """Let the actors leave in order and take the hub's last word, in which everything is accounted for."""
        self.crew.ending = True
        self.hub.stop()
        deadline = self.clock.now() + ACTORS_LEAVE_WITHIN_S
        while not self.crew.all_gone() and self.clock.now() < deadline:
            time.sleep(TURN_S / 5)
        self.crew.end(grace_s=TERM_GRACE_S)
        deadline = self.clock.now() + BOOKS_WITHIN_S
        while not self._replay_gone():
            status = self._status()
            self.account.status = status or self.account.status
            if (status is not None and status["live"] == 0) or self.clock.now() > deadline:
                return
            time.sleep(TURN_S / 2)

    def take_last_word(self) -> None:
        """Ask the hub once more how the run stands: of a run that fails, the last answer may be old."""
        deadline = self.clock.now() + LAST_WORD_WITHIN_S
        while not self._replay_gone() and self.clock.now() < deadline:
            status = self._status()
            if status is not None:
                self.account.status = status
                return
            time.sleep(TURN_S)

    def _replay_gone(self) -> bool:
        return "replay" not in self.services or self.services["replay"].exit_code is not None

    def end(self) -> None:
        """End every process that is left, within bounded time. Safe to call at any point."""
        self.crew.ending = True
        gone = self.job.folder.gone
        grace_s = 0.0 if gone else TERM_GRACE_S  # a learner would make the folder anew, to save in it
        end_all([*self.crew.children, *self._running("learner")], grace_s=grace_s)
        end_all(self._running("replay"), grace_s=grace_s)
        if not gone:
            self.crew.turn()
            self.roster.write({}, [], self.crew.restarts_of)
        self.roster.close()

    def check_folder(self) -> None:
        """End a run whose folder was deleted: nothing that it comes to can be kept.

        Raises:
            RunError: if it is gone.
        """
        if self.job.folder.gone:
            raise RunError(gone_text(self.job.folder.path))

    def _running(self, role: str) -> list[Child]:
        return [self.services[role]] if role in self.services else []

    def _take_interrupts(self) -> None:
        """The first interrupt asks for an orderly end, a second one, or too long a wait, for an end."""
        if self.interrupts.count and self.stop_by is None:
            self.job.observer.noted("stopping: the learner step is finished and saved (again to stop at once)")
            self._begin_stop()
            # Before the first learner step there may be no hub to pass it on, nor anything to save.
            if not self._trained() or not self.hub.stop():
                self.services["learner"].terminate()
        if self.interrupts.count > 1:
            raise RunError("stopped at once, as asked twice; the last checkpoint is as it was")
        if self.stop_by is not None and self.clock.now() > self.stop_by:
            self.services["learner"].kill()
            if self._trained():
                raise RunError(
                    f"the learner did not end within {STOP_WITHIN_S:g} s of being asked to; the last checkpoint is as it was"
                )

    def _begin_stop(self) -> None:
        self.stop_by = self.clock.now() + (STOP_WITHIN_S if self._trained() else STOP_EARLY_WITHIN_S)
        self.account.stopped = self.crew.ending = True
        self.job.folder.event("stop_asked")

    def _hear_of_late_stop(self) -> None:
        """A learner that was told to stop from elsewhere may be gone before the hub has been asked again."""
        if self.stop_by is None and (status := self._status()) is not None:
            self._heed_stop(status)

    def _heed_stop(self, status: Mapping[str, Any]) -> None:
        if status["stop"] and self.stop_by is None:
            self._begin_stop()

    def _status(self) -> Mapping[str, Any] | None:
        """The hub's word; None without one, at once if its process has ended."""
        return self.hub.status(unless=self._replay_gone)

    def _ask_hub(self) -> None:
        now = self.clock.now()
        if now - self._heard > SILENT_S:
            raise RunError(f"the replay server has said nothing for {SILENT_S:g} s; its log is {self.services['replay'].log}")
        if now < self._next_status or not self.replay.ready:
            return
        self._next_status = now + STATUS_EVERY_S
        status = self._status()
        if status is None:
            return
        self._heard = self.clock.now()
        self.account.status = status = self.replay.brief(self.hub, status, stopping=self.account.stopped)
        self.crew.heard(status["actors"])
        self._watch_learner(status["learner"].get("learner_step"))
        self._heed_stop(status)
        self.crew.follow(status["desired_actors"])
        for service in self.services.values():
            service.look()

    def _watch_learner(self, learner_step: Any) -> None:
        """Kill a learner that hangs or was stopped, so that it is started again: it should have ended itself by now."""
        now, child, trainer = self.clock.now(), self.services["learner"], self.job.settings.trainer
        if (child.pid, learner_step) != self._seen:
            self._moved = self._seen[0] == child.pid and self._seen[1] is not None
            self._seen, self._stepped = (child.pid, learner_step), now
        limit = trainer.hang_timeout * (1.0 if self._moved else START_FACTOR) + trainer.data_timeout
        if learner_step is not None and now - self._stepped > limit:
            self._stepped = now
            text = f"the learner has finished no learner step for {limit:g} s and does not say why; it is killed"
            self._notice("learner_hung", text, {"pid": child.pid, "learner_step": learner_step})
            child.kill()

    def _look_after_actors(self) -> None:
        try:
            self.crew.turn()
        except ActorGivenUpError as error:
            self._show_last_lines(error.child)
            raise self._as_asked(error.child, str(error)) from None

    def _look_after_replay(self) -> None:
        """A dead one is started again also while the run ends: the learner asks it before it saves."""
        restarts, child = self.replay.restarts, self.replay.turn(reports=self.lines.count, stopping=False)
        if child is None:
            raise self._failure(self.services["replay"])
        if self.replay.restarts > restarts:
            self._heard = self.clock.now()
        self.services["replay"] = child

    def _ended_well(self, learner: Child) -> bool:
        """Also a learner that was stopped before it could listen has ended well."""
        return learner.exit_code == 0 or (self.account.stopped and not self._trained() and learner.exit_code != BAD_INPUT)

    def _failure(self, child: Child) -> OatmillError:
        self._show_last_lines(child)
        if child.exit_code == BAD_INPUT and child.error:
            return self._as_asked(child, child.error)
        return RunError(
            f"the {child.name} process {child.ending}{f': {child.error}' if child.error else ''}; its log is {child.log}"
        )

    def _as_asked(self, child: Child, message: str) -> OatmillError:
        """Before anything was trained, a process that refuses what it was given refuses the user's input."""
        return UserError(message) if child.exit_code == BAD_INPUT and not self._trained() else RunError(message)

    def _show_last_lines(self, child: Child) -> None:
        if child.exit_code != BAD_INPUT or self._trained():
            self.job.observer.failed(child.name, child.last_lines(LAST_LINES))

    def _trained(self) -> bool:
        return self.lines.count > 0

    def _tell_observer(self) -> None:
        for line in self.lines.new():
            self.job.observer.reported(line)
        for event in self.events.new():
            if "text" in event:  # the learner's own: what it skipped, went back to, or could not write
                self.job.observer.noted(event["text"])

    def _notice(self, event: str, text: str, values: Mapping[str, Any]) -> None:
        self.job.folder.event(event, **values)
        if text:
            self.job.observer.noted(text)
