"""A real run whose processes are killed, stopped and let go on by a seeded schedule, and what it came to."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from oatmill.errors import RunError, UserError
from runner.folder import read_json
from runner.operator_client import OperatorClient, operator_client

ROLES = ("replay", "actor", "learner")
"""What may be killed. Only the supervisor's death ends a run."""
STARTS_WITHIN_S = 120.0
RECOVERS_WITHIN_S = 60.0
ENDS_WITHIN_S = 90.0
LOOK_EVERY_S = 0.05
KILLS = 0.7
"""The share of faults that are kill -9; the others stop a process for a while."""
STOPPED_S = (0.3, 3.0)
BETWEEN_S = (0.2, 1.0)


@dataclass
class Chaos:
    """What is done to a run.

    Attributes:
        command: starts it, in the foreground, with a JSON summary on stdout.
        folder: its run folder.
        roles: whose processes suffer.
        seconds: for how long, counted from the first trained batch on.
        seed: of the schedule.
        log: where its other output goes.
    """

    command: Sequence[str]
    folder: Path
    roles: Sequence[str]
    seconds: float
    seed: int
    log: Path
    faults: Counter[str] = field(default_factory=Counter)
    recoveries: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def run(self) -> dict[str, Any]:
        """Start, harm, stop and reckon.

        Raises:
            UserError: if there is no such role.
            RunError: if the run does not start, recover or end.
        """
        unknown = sorted(set(self.roles) - set(ROLES))
        if unknown or not self.roles:
            raise UserError(f"--kill takes some of {', '.join(ROLES)}, got {', '.join(unknown) or 'nothing'}")
        with self.log.open("w") as log:
            process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True)
        try:
            self._wait_for_run(process)
            with operator_client(read_json(self.folder / "run.json")["control"]) as hub:
                self._harm(process, hub)
                hub.stop()
            output, _ = process.communicate(timeout=ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            raise RunError(
                f"the run did not end within {ENDS_WITHIN_S:g} s of being asked to; its output is {self.log}"
            ) from None
        finally:
            self._end(process)
        return self._report(process.returncode, output)

    def _wait_for_run(self, process: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + STARTS_WITHIN_S
        while not (self.folder / "checkpoints" / "latest").exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RunError(f"the run came to no checkpoint; its output is {self.log}")
            time.sleep(LOOK_EVERY_S)

    def _harm(self, process: subprocess.Popen[str], hub: OperatorClient) -> None:
        random, end = Random(self.seed), time.monotonic() + self.seconds
        while time.monotonic() < end:
            time.sleep(random.uniform(*BETWEEN_S))
            if process.poll() is not None:
                raise RunError(
                    f"the run ended with {process.returncode} after {self.faults.total()} faults; its output is {self.log}"
                )
            role = random.choice(list(self.roles))
            victims = [entry for entry in self._processes() if entry["role"] == role]
            if victims:
                self._fault(random, random.choice(victims), hub)

    def _processes(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = read_json(self.folder / "run.json").get("processes", [])
        return found

    def _fault(self, random: Random, victim: Mapping[str, Any], hub: OperatorClient) -> None:
        role, before = victim["role"], self._progress(hub, victim)
        killed = random.random() < KILLS
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim["pid"], signal.SIGKILL if killed else signal.SIGSTOP)
            if not killed:
                time.sleep(random.uniform(*STOPPED_S))
                os.kill(victim["pid"], signal.SIGCONT)
        self.faults[f"{role} {'killed' if killed else 'stopped'}"] += 1
        began = time.monotonic()
        while not self._recovered(hub, victim, before, killed=killed):
            if time.monotonic() - began > RECOVERS_WITHIN_S:
                raise RunError(
                    f"{role} {victim['id']} has not recovered within {RECOVERS_WITHIN_S:g} s; its output is {self.log}"
                )
            time.sleep(LOOK_EVERY_S)
        self.recoveries[role].append(time.monotonic() - began)

    def _progress(self, hub: OperatorClient, victim: Mapping[str, Any]) -> tuple[int, int]:
        """(incarnation, steps) of an actor, (0, trajectories trained on) of the others; -1 where nothing is known."""
        status = hub.status() or {}
        if victim["role"] != "actor":
            ledger = status.get("ledger", {})
            return 0, ledger.get("trained", -1) + ledger.get("dropped", {}).get("rolled_back", 0)
        for actor in status.get("actors", []):
            if actor["actor_id"] == victim["id"]:
                return actor["incarnation"], actor.get("env_steps", 0)
        return -1, -1

    def _recovered(self, hub: OperatorClient, victim: Mapping[str, Any], before: tuple[int, int], *, killed: bool) -> bool:
        """Whether it, or who has taken its place, makes progress again."""
        incarnation, steps = self._progress(hub, victim)
        if victim["role"] != "actor":
            restarted = not killed or all(entry["pid"] != victim["pid"] for entry in self._processes())
            return restarted and steps > before[1]
        return (incarnation > before[0] and steps > 0) or (not killed and incarnation == before[0] and steps > before[1])

    def _end(self, process: subprocess.Popen[str]) -> None:
        """Leave no process of the run behind; its supervisor ends its children in order, if it can."""
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(ENDS_WITHIN_S / 3)
            except subprocess.TimeoutExpired:
                process.kill()
                for entry in self._processes():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(entry["pid"], signal.SIGKILL)
        process.communicate()

    def _report(self, code: int, output: str) -> dict[str, Any]:
        try:
            summary = json.loads(output)
        except ValueError:
            raise RunError(f"the run ended with {code} and left no summary; its output is {self.log}") from None
        ledger: dict[str, Any] = summary["ledger"]
        columns = ("trained", "queued", "in_flight", "unsent_at_death", "lost")
        accounted = sum(ledger.get(name, 0) for name in columns) + sum(ledger.get("dropped", {}).values())
        return {
            "seed": self.seed,
            "seconds": self.seconds,
            "exit_code": code,
            "faults": dict(sorted(self.faults.items())),
            "faults_survived": sum(self.faults.values()),
            "produced": ledger.get("produced", 0),
            "accounted": accounted,
            "lost": ledger.get("lost", 0),
            "recovery_seconds": {role: quantiles(times) for role, times in sorted(self.recoveries.items())},
            "good": code == 0 and bool(ledger) and accounted == ledger.get("produced") and ledger.get("lost") == 0,
            "ledger": ledger,
            "run_dir": str(self.folder),
        }


def quantiles(times: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile and largest, in seconds."""
    ordered = sorted(times)
    at = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {name: round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3) for name, share in at.items()}


def chaos_command(recipe: str, assignments: Sequence[str], folder: Path, *, seed: int) -> list[str]:
    """The command line of a run that goes on until it is stopped, saves often, and starts its processes again and again.

    Its trajectories are acknowledged once they are on the disk, or the death of the replay server would lose some.
    """
    lasting = ["trainer.total_timesteps=1000000000000", "trainer.checkpoint_every=20"]
    lasting += ["trainer.max_restarts=1000", "actors.max_restarts=1000"]
    lasting += ["replay.max_restarts=1000", "replay.acknowledge=durable"]
    options = ["--run-dir", str(folder), "--seed", str(seed), "--json"]
    return [sys.executable, "-m", "deploy", "train", recipe, *lasting, *assignments, *options]
