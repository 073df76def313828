"""The processes of a run: how each is started, and what run.json says of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from oatmill.children.family import Guardian
from runner.folder import read_json
from runner.local.child import Child
from runner.local.commands import actor_command, learner_command, replay_command
from runner.local.job import Job
from runner.local.listening import make_again


class Roster:
    """Starts the processes of a job and keeps run.json true. Should this process be killed, a guardian ends what is left.

    Args:
        job: what is run.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._written: dict[str, Any] = {}
        self._guardian: Guardian | None = None
        self.endpoints = job.folder.path / "endpoints"

    def start_replay(self) -> Child:
        """The server between actors and learner."""
        job = self._job
        make_again(job.addresses.listen)
        command = replay_command(
            job.folder.config,
            job.folder.path,
            listen=job.addresses.listen,
            insecure=job.insecure,
            log_level=job.log_level,
            keys=job.keys,
        )
        return self._child("replay", 0, command, threads=1)

    def start_learner(self, resume: bool) -> Child:  # noqa: FBT001  (what LearnerPost asks)
        """The learner: its one rank, or the group of all of them; from its newest checkpoint or anew."""
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
        """One actor."""
        job = self._job
        command = actor_command(
            job.folder.config, address=job.addresses.control, number=number, log_level=job.log_level, keys=job.keys
        )
        return self._child("actor", number, command, threads=1)

    def write(self, services: Mapping[Child, int], actors: Sequence[Child], restarts_of: Callable[[int], int]) -> None:
        """Write run.json, if it is no longer true.

        Args:
            services: replay and learner, as far as they run, and how often each was started again.
            actors: the actors that run.
            restarts_of: how often an actor was started again, by its number.
        """
        job = self._job
        job.folder.flush()
        listed = [*self._services(services), *self._actors(actors, restarts_of)]
        content = {
            **job.identity,
            "control": job.addresses.control,
            "keys": None if job.keys is None else str(job.keys),
            "endpoints": {path.stem: read_json(path) for path in sorted(self.endpoints.glob("*.json"))},
            "processes": [{"role": "supervisor", "id": 0, "pid": os.getpid(), "restarts": 0}, *listed] if listed else [],
        }
        if content != self._written:
            self._written = content
            job.folder.write_run(content)

    def close(self) -> None:
        """Say that every process has been ended, so that nobody has to see to it."""
        if self._guardian is not None:
            self._guardian.close()

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
