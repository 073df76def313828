"""How the processes of a run are started: what a supervisor needs from an engine, and how this machine does it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from oatmill.children.family import Guardian
from runner.folder import read_json
from runner.local.child import Child, end_all, end_families_of
from runner.local.commands import actor_command, learner_command, replay_command
from runner.local.job import Job
from runner.local.listening import make_again

LOOK_EVERY_S = 1.0


class Process(Protocol):
    """One process of a run, or a group of learner ranks that start and end together."""

    @property
    def number(self) -> int:
        """Its number within its role."""
        ...

    @property
    def pid(self) -> int:
        """Its process id; 0 as long as it is unknown."""
        ...

    @property
    def name(self) -> str:
        """What a message calls it, such as `actor 3`."""
        ...

    @property
    def log(self) -> Path:
        """The file with its output, on the machine where it runs."""
        ...

    @property
    def exit_code(self) -> int | None:
        """How it ended, negative for a signal; None while it runs."""
        ...

    @property
    def ending(self) -> str:
        """How it ended, in words, such as `ended with exit code 1`."""
        ...

    @property
    def error(self) -> str | None:
        """The line with which it gave up; None if it wrote none."""
        ...

    @property
    def failure(self) -> str:
        """The sentence that describes its end as the reason why the run failed."""
        ...

    def last_lines(self, count: int) -> list[str]:
        """The last lines of its output; empty if they cannot be had."""
        ...

    def terminate(self) -> None:
        """Ask it to end. Returns at once."""
        ...

    def kill(self) -> None:
        """End it and every process that it has started."""
        ...


P = TypeVar("P", bound=Process)


class Launcher(Protocol[P]):
    """Starts the processes of one run on one engine, such as this machine or a Ray cluster."""

    def start_replay(self) -> P:
        """Start the replay server. Every later one listens at the addresses of the first."""
        ...

    def start_learner(self, resume: bool) -> P:  # noqa: FBT001  (a callback of LearnerService)
        """Start all learner ranks.

        Args:
            resume: start from the newest checkpoint.
        """
        ...

    def start_actor(self, number: int) -> P:
        """Start the actor of a number."""
        ...

    def replay_listens(self) -> bool:
        """Whether the newest replay server is ready for connections."""
        ...

    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint that a new learner would start from."""
        ...

    def problem(self) -> str | None:
        """Why the run cannot go on here, such as a deleted run folder; None if it can."""
        ...

    def record(self, services: Mapping[P, int], actors: Sequence[P], restarts_of: Callable[[int], int]) -> None:
        """Write down which processes run. Called once a turn.

        Args:
            services: replay and learner, as far as they run, and how often each was restarted.
            actors: the actors that run.
            restarts_of: how often an actor was restarted, by its number.
        """
        ...

    def reap(self, processes: Iterable[P]) -> None:
        """End what processes that have ended have left behind. Those that still run are left alone."""
        ...

    def end_all(self, processes: Sequence[P], *, grace_s: float) -> None:
        """Ask processes to end, and kill those that still run after `grace_s` seconds."""
        ...

    def close(self) -> None:
        """Release everything; called when every process has ended."""
        ...


class LocalLauncher:
    """Starts the processes of a job on this machine and keeps run.json up to date.

    If this process is killed, a guardian process ends those that are left.

    Args:
        job: the job to run.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._written: dict[str, Any] = {}
        self._guardian: Guardian | None = None
        self._next_look = 0.0
        self._endpoints = job.folder.path / "endpoints"

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
            ranks=trainer.learners,
            resume=resume,
            log_level=job.log_level,
            keys=job.keys,
        )
        return self._child("learner", 0, command, threads=trainer.threads)

    def start_actor(self, number: int) -> Child:
        """See Launcher."""
        job = self._job
        command = actor_command(
            job.folder.config, address=job.addresses.control, number=number, log_level=job.log_level, keys=job.keys
        )
        return self._child("actor", number, command, threads=1)

    def replay_listens(self) -> bool:
        """See Launcher."""
        return self._replay_endpoint.exists()

    def has_checkpoint(self) -> bool:
        """See Launcher."""
        return (self._job.folder.path / "checkpoints" / "latest").exists()

    def problem(self) -> str | None:
        """See Launcher."""
        folder = self._job.folder
        return (
            f"the run folder {folder.path} was deleted or moved away while the run went on; the run ends"
            if folder.gone
            else None
        )

    def record(self, services: Mapping[Child, int], actors: Sequence[Child], restarts_of: Callable[[int], int]) -> None:
        """Write run.json if it has changed, and keep the logs short. See Launcher."""
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_EVERY_S
            for child in services:
                child.look()
        for child in (*services, *actors):
            child.bound_log()
        job = self._job
        job.folder.flush()
        listed = [*self._services(services), *self._actors(actors, restarts_of)]
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
        """See Launcher."""
        if self._guardian is not None:
            self._guardian.close()

    @property
    def _replay_endpoint(self) -> Path:
        return self._endpoints / "replay.json"

    def _child(self, role: str, number: int, command: Sequence[str], *, threads: int) -> Child:
        self._guardian = self._guardian or Guardian()
        child = Child(role, number, command, log=self._job.folder.log(role, number), threads=threads)
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
