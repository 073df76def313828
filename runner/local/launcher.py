"""Starts the processes of a run: the interface `Launcher`, and its implementation for this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from oatmill.children.family import Guardian
from runner.continuing import has_checkpoint
from runner.folder import read_json
from runner.local.bounded_log import LONGEST_BYTES
from runner.local.child import Child, Start, end_all, end_families_of, start_process
from runner.local.commands import actor_command, evaluator_command, learner_command, replay_command
from runner.local.forking import Forking
from runner.local.job import Job
from runner.local.listening import make_again
from runner.local.services.evaluator import EvaluatorService

LOOK_EVERY_S = 1.0


class Process(Protocol):
    """One process of a run, or a group of learner ranks that start and end together."""

    @property
    def number(self) -> int:
        """The number within the role."""
        ...

    @property
    def pid(self) -> int:
        """The process id; 0 while it is unknown."""
        ...

    @property
    def name(self) -> str:
        """The name in messages, such as `actor 3`."""
        ...

    @property
    def log(self) -> Path:
        """The file with the output, on the machine where the process runs."""
        ...

    @property
    def exit_code(self) -> int | None:
        """The exit code, negative for a signal; None while the process runs."""
        ...

    @property
    def ending(self) -> str:
        """How the process ended, in words, such as `ended with exit code 1`."""
        ...

    @property
    def error(self) -> str | None:
        """The error line of the process; None if it wrote none."""
        ...

    @property
    def failure(self) -> str:
        """A message that says why the run failed: this process has ended."""
        ...

    def last_lines(self, count: int) -> list[str]:
        """The last lines of the output; empty if they are not available."""
        ...

    def terminate(self) -> None:
        """Ask the process to end; does not wait."""
        ...

    def kill(self) -> None:
        """Kill the process and all of its children."""
        ...


P = TypeVar("P", bound=Process)


class ActorLauncher(Protocol[P]):
    """Starts and ends actors, on this machine or on an engine."""

    def start_actor(self, number: int) -> P | None:
        """Start the actor with a number; None if that is not possible yet: ask again soon."""
        ...

    def reap(self, processes: Iterable[P]) -> None:
        """Kill the remaining children of processes that have ended."""
        ...

    def end_all(self, processes: Sequence[P], *, grace_s: float) -> None:
        """Ask processes to end, and kill those that still run after `grace_s` seconds."""
        ...


class Launcher(ActorLauncher[P], Protocol[P]):
    """Starts the processes of one run on one engine, such as this machine or a Ray cluster."""

    def start_replay(self) -> P:
        """Start the replay server. A restarted server listens at the same addresses."""
        ...

    def start_learner(self, resume: bool) -> P:  # noqa: FBT001  (a callback of LearnerService)
        """Start all learner ranks.

        Args:
            resume: start from the newest checkpoint.
        """
        ...

    def replay_listens(self) -> bool:
        """Whether the newest replay server is ready for connections."""
        ...

    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint from which a new learner would start."""
        ...

    def problem(self) -> str | None:
        """Why the run cannot continue, such as a deleted run folder; None if it can."""
        ...

    def record(self, services: Mapping[P, int], actors: Sequence[P], restarts_of: Callable[[int], int]) -> None:
        """Record which processes run. Called once per turn.

        Args:
            services: the running services, replay and learner, with their numbers of restarts.
            actors: the running actors.
            restarts_of: returns the number of restarts of an actor, by its number.
        """
        ...

    def close(self) -> None:
        """Release all resources; called when every process has ended."""
        ...


class LocalLauncher:
    """Starts the processes of a job on this machine and keeps run.json up to date.

    If this process is killed, a guardian process ends the processes that still run.

    Args:
        job: the job to run.
        stopped: returns whether the run was asked to stop.
    """

    child_type: type[Child] = Child
    """What the process of a role is, if it may run elsewhere."""
    forks_actors = True
    """Whether the actors run beside this process, so that one process can fork them all."""

    def __init__(self, job: Job, *, stopped: Callable[[], bool] = lambda: False) -> None:
        self._job, self._stopped = job, stopped
        self._evaluator: EvaluatorService | None = None
        self._written: dict[str, Any] = {}
        self._guardian: Guardian | None = None
        self._forking: Forking | None = None
        self._next_look = 0.0
        self._told: set[str] = set()  # processes whose logs were shortened
        self._endpoints = job.folder.path / "endpoints"
        if job.settings.evaluator.enabled:
            self._evaluator = EvaluatorService(self._start_evaluator, job.folder)

    def start_replay(self) -> Child:
        """See Launcher."""
        job = self._job
        make_again(job.addresses.listen)
        self._replay_endpoint.unlink(missing_ok=True)
        command = replay_command(
            job.folder.config,
            job.folder.path,
            listen=job.addresses.listen,
            insecure=job.insecure,
            log_level=job.log_level,
            keys=job.keys,
        )
        return self._child("replay", 0, command, threads=1)

    def start_learner(self, resume: bool) -> Child:  # noqa: FBT001  (a callback of LearnerService)
        """See Launcher."""
        job, trainer = self._job, self._job.settings.trainer
        command = learner_command(
            job.folder.config,
            job.folder.path,
            address=job.addresses.control,
            ranks=self._ranks,
            resume=resume,
            log_level=job.log_level,
            keys=job.keys,
        )
        return self._child("learner", 0, command, threads=trainer.first_threads)

    def start_actor(self, number: int) -> Child | None:
        """See Launcher."""
        job = self._job
        command = actor_command(
            job.folder.config, address=job.addresses.control, number=number, log_level=job.log_level, keys=job.keys
        )
        way = self._forked(command) if self.forks_actors else start_process
        return None if way is None else self._child("actor", number, command, threads=1, start=way)

    def replay_listens(self) -> bool:
        """See Launcher."""
        return self._replay_endpoint.exists()

    def has_checkpoint(self) -> bool:
        """See Launcher."""
        return has_checkpoint(self._job.folder.path)

    def problem(self) -> str | None:
        """See Launcher."""
        folder = self._job.folder
        return f"the run folder {folder.path} was deleted or moved during the run; the run ends" if folder.gone else None

    def record(self, services: Mapping[Child, int], actors: Sequence[Child], restarts_of: Callable[[int], int]) -> None:
        """See Launcher. Writes run.json if it has changed, and shortens logs that are too long."""
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_EVERY_S
            for child in services:
                child.look()
        for child in (*services, *actors):
            child.bound_log()
            if child.prints_much and child.name not in self._told:
                self._told.add(child.name)
                text = (
                    f"{child.name} prints a lot of output: more than {LONGEST_BYTES / 2**20:.2g} MiB; {child.log} keeps the "
                    "first and the newest lines"
                )
                self._job.folder.event("log_shortened", text=text, process=child.name)
        job = self._job
        job.folder.flush()
        listed = [*self._services(services), *self._actors(actors, restarts_of)]
        if self._evaluator is not None and listed:
            listed += self._evaluator.turn()
        content = {
            **job.identity,
            "control": job.addresses.control,
            "keys": None if job.keys is None else str(job.keys),
            "endpoints": {path.stem: read_json(path) for path in sorted(self._endpoints.glob("*.json"))},
            "processes": [{"role": "supervisor", "id": 0, "pid": os.getpid(), "restarts": 0}, *listed] if listed else [],
        }
        if content != self._written:
            self._written = content
            job.folder.write_run(content)

    def reap(self, processes: Iterable[Child]) -> None:
        """See Launcher."""
        end_families_of(processes)

    def end_all(self, processes: Sequence[Child], *, grace_s: float) -> None:
        """See Launcher."""
        end_all(processes, grace_s=grace_s)

    def close(self) -> None:
        """See Launcher. If the run has ended as planned, its last checkpoint is played."""
        if self._evaluator is not None:
            self._evaluator.finish(stopped=self._stopped)
        if self._forking is not None:
            self._forking.close()
        if self._guardian is not None:
            self._guardian.close()

    def _start_evaluator(self) -> Child:
        job = self._job
        command = evaluator_command(job.folder.config, job.folder.path, log_level=job.log_level, trust=True)
        return self._child("evaluator", 0, command, threads=1, beside_supervisor=True)

    def _forked(self, command: Sequence[str]) -> Start | None:
        self._guardian = self._guardian or Guardian()
        self._forking = self._forking or Forking(self._job.folder.log("supervisor", 0), self._guardian)
        return self._forking.way(command)

    def _prefix(self, role: str, number: int) -> list[str]:  # noqa: ARG002  (engines start roles elsewhere)
        """The words before a role's command."""
        return []

    @property
    def _ranks(self) -> int:
        """The number of ranks that one learner command starts."""
        return self._job.settings.trainer.learners

    @property
    def _replay_endpoint(self) -> Path:
        return self._endpoints / "replay.json"

    def _child(
        self,
        role: str,
        number: int,
        command: Sequence[str],
        *,
        threads: int,
        beside_supervisor: bool = False,
        start: Start = start_process,
    ) -> Child:
        """Start a process where the engine runs its role, or on this machine with `beside_supervisor`."""
        self._guardian = self._guardian or Guardian()
        child_type = Child if beside_supervisor else self.child_type
        prefix = [] if beside_supervisor else self._prefix(role, number)
        log = self._job.folder.log(role, number)
        child = child_type(role, number, [*prefix, *command], log=log, threads=threads, start=start)
        self._guardian.watch(child.tag, child.pid)
        return child

    def _services(self, services: Mapping[Child, int]) -> Iterator[Mapping[str, Any]]:
        grouped = self._job.settings.trainer.learners > 1
        for child, restarts in services.items():
            pids = child.ranks if grouped and child.role == "learner" else [child.pid]
            for number, pid in enumerate(pids):
                yield {"role": child.role, "id": number, "pid": pid, "restarts": restarts}

    def _actors(self, actors: Sequence[Child], restarts_of: Callable[[int], int]) -> Iterator[Mapping[str, Any]]:
        for child in actors:
            yield {"role": child.role, "id": child.number, "pid": child.pid, "restarts": restarts_of(child.number)}
