"""Runs a replay server, actors and a learner on this machine, watches over them, and ends them all."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from protocol.errors import OatmillError, RunError, UserError
from recipes.child import Child, end_all
from recipes.crew import BAD_INPUT, ActorGivenUpError, Crew
from recipes.hub_line import HubLine, hub_line
from recipes.interrupts import Interrupts
from recipes.job import Account, Job
from recipes.json_lines import JsonLines
from recipes.roster import Roster

TURN_S = 0.1
STATUS_EVERY_S = 1.0
SILENT_S = 60.0
"""A hub that has answered nothing for this long is given up."""
HUNG_AFTER = 5.0
"""A learner that finishes no learner step for this many times trainer.data_timeout hangs: it would have given up waiting."""
STOP_WITHIN_S = 60.0
"""A learner that was asked to stop finishes its learner step and saves; after this long it is killed."""
STOP_EARLY_WITHIN_S = 5.0
"""The same for a learner that has nothing to save yet."""
ACTORS_LEAVE_WITHIN_S = 10.0
BOOKS_WITHIN_S = 3.0
"""After the last actor has left, the ledger has this long to come out even."""
TERM_GRACE_S = 5.0
LAST_LINES = 15


def supervise(job: Job, account: Account) -> None:
    """Run a job to its end; whatever happens, no process of it is left.

    Args:
        job: what is run.
        account: is kept, so that it holds what is known also when the run fails.

    Raises:
        UserError: if a process refuses what was asked before anything was trained.
        RunError: if the run fails.
    """
    with hub_line(job.addresses.control) as hub, Interrupts() as interrupts:
        supervisor = Supervisor(job, account, hub, interrupts)
        try:
            supervisor.start()
            supervisor.watch()
            supervisor.close_books()
        finally:
            account.restarts = supervisor.crew.restarts
            supervisor.end()


class Supervisor:
    """One run's processes.

    Args:
        job: what is run.
        account: is kept.
        hub: the line to its hub.
        interrupts: counts Ctrl-C and SIGTERM.
    """

    def __init__(self, job: Job, account: Account, hub: HubLine, interrupts: Interrupts) -> None:
        self.job = job
        self.hub = hub
        self.interrupts = interrupts
        self.account = account
        self.roster = Roster(job)
        self.services: dict[str, Child] = {}
        self.crew = Crew(self.roster.start_actor, max_restarts=job.settings.actors.max_restarts, notice=self._notice)
        self.lines = JsonLines(job.folder.metrics)
        self.stop_by: float | None = None
        self._heard = self._next_status = 0.0
        self._learner_step: Any = None
        self._stepped = 0.0

    def start(self) -> None:
        """Start everything at once: whoever is early waits for the others."""
        self.services["replay"] = self.roster.start_replay()
        self.services["learner"] = self.roster.start_learner()
        self.crew.follow(self.job.settings.actors.count)
        self.crew.turn()
        self._heard = time.monotonic()
        self.roster.write(list(self.services.values()), self.crew.children, self.crew.restarts_of)

    def watch(self) -> None:
        """Look after the run until the learner has ended well.

        Raises:
            UserError: if a process refuses what was asked before anything was trained.
            RunError: if the run fails.
        """
        learner = self.services["learner"]
        while learner.exit_code is None:
            self._take_interrupts()
            self._check(self.services["replay"])
            self._ask_hub()
            self._look_after_actors()
            self.roster.write(list(self.services.values()), self.crew.children, self.crew.restarts_of)
            self._tell_observer()
            time.sleep(TURN_S)
        self._tell_observer()
        if not self._ended_well(learner):
            raise self._failure(learner)

    def close_books(self) -> None:
        """Let the actors leave in order and take the hub's last word, in which everything is accounted for."""
        self.crew.ending = True
        self.hub.stop()
        deadline = time.monotonic() + ACTORS_LEAVE_WITHIN_S
        while not self.crew.all_gone() and time.monotonic() < deadline:
            time.sleep(TURN_S / 5)
        self.crew.end(grace_s=TERM_GRACE_S)
        deadline = time.monotonic() + BOOKS_WITHIN_S
        while (status := self.hub.status()) is not None:
            self.account.status = status
            if status["live"] == 0 or time.monotonic() > deadline:
                return
            time.sleep(TURN_S / 2)

    def end(self) -> None:
        """End every process that is left, within bounded time. Safe to call at any point."""
        self.crew.ending = True
        end_all([*self.crew.children, *self._running("learner")], grace_s=TERM_GRACE_S)
        end_all(self._running("replay"), grace_s=TERM_GRACE_S)
        self.crew.turn()
        self.roster.write([], [], self.crew.restarts_of)

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
        if self.stop_by is not None and time.monotonic() > self.stop_by:
            self.services["learner"].kill()
            if self._trained():
                raise RunError(
                    f"the learner did not end within {STOP_WITHIN_S:g} s of being asked to; the last checkpoint is as it was"
                )

    def _begin_stop(self) -> None:
        self.stop_by = time.monotonic() + (STOP_WITHIN_S if self._trained() else STOP_EARLY_WITHIN_S)
        self.account.stopped = self.crew.ending = True
        self.job.folder.event("stop_asked")

    def _ask_hub(self) -> None:
        now = time.monotonic()
        if now - self._heard > SILENT_S:
            raise RunError(f"the replay server has said nothing for {SILENT_S:g} s; its log is {self.services['replay'].log}")
        if now < self._next_status or not (self.roster.endpoints / "replay.json").exists():
            return
        self._next_status = now + STATUS_EVERY_S
        status = self.hub.status()
        if status is None:
            return
        self._heard = time.monotonic()
        self.account.status = status
        self.crew.heard(status["actors"])
        self._watch_learner(status["learner"].get("learner_step"))
        if status["stop"] and self.stop_by is None:
            self._begin_stop()
        self.crew.follow(status["desired_actors"])
        for service in self.services.values():
            service.look()

    def _watch_learner(self, learner_step: Any) -> None:
        now = time.monotonic()
        if learner_step != self._learner_step:
            self._learner_step, self._stepped = learner_step, now
        limit = HUNG_AFTER * self.job.settings.trainer.data_timeout
        if learner_step is not None and now - self._stepped > limit:
            raise RunError(
                f"the learner has finished no learner step for {limit:g} s and does not say why; its log is "
                f"{self.services['learner'].log}; a step that takes that long needs a higher trainer.data_timeout"
            )

    def _look_after_actors(self) -> None:
        try:
            self.crew.turn()
        except ActorGivenUpError as error:
            self._show_last_lines(error.child)
            raise self._as_asked(error.child, str(error)) from None

    def _check(self, child: Child) -> None:
        if child.exit_code is not None:
            raise self._failure(child)

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

    def _notice(self, event: str, text: str, values: Mapping[str, Any]) -> None:
        self.job.folder.event(event, **values)
        if text:
            self.job.observer.noted(text)
