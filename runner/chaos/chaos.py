"""Starts a real run, injects faults by a seeded schedule, and reports how the run survived them."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from oatmill.children.parent import dies_with_parent
from oatmill.errors import RunError, UserError
from oatmill.files.run_files import EVENTS_FILE
from runner.chaos.faults import FAULTS, STOPPED_S, Scene, clocks, signalled, small_disk, stopped
from runner.chaos.watch import Watch
from runner.continuing import has_checkpoint
from runner.folder import read_json
from runner.operator_client import OperatorClient, operator_client

ROLES = ("replay", "actor", "learner")
"""Roles whose processes may be killed. Killing the supervisor would end the run."""
WEIGHTS = {"kill": 7, "stop": 3} | dict.fromkeys(FAULTS, 2)
"""Relative frequency of each kind of fault."""
KINDS = tuple(WEIGHTS)
PORTS = range(10_000, 32_000)
SETTINGS = {"flip": ("replay.log_bytes=1048576",)}
"""Additional settings for a fault: bit flips are more effective in a log of many small segments."""
STARTS_WITHIN_S = 120.0
RECOVERS_WITHIN_S = 60.0
ENDS_WITHIN_S = 90.0
LOOK_EVERY_S = 0.05
BETWEEN_S = (0.2, 1.0)


@dataclass
class Chaos:
    """A run and the faults to inject.

    Attributes:
        command: the command line that starts the run in the foreground, with a JSON summary on stdout.
        folder: the run folder.
        roles: the roles whose processes are killed and stopped.
        seconds: for how long faults are injected, from the first checkpoint on.
        seed: the seed of the schedule.
        log: the file for the run's standard error.
        kinds: the kinds of faults, out of `KINDS`.
    """

    command: Sequence[str]
    folder: Path
    roles: Sequence[str]
    seconds: float
    seed: int
    log: Path
    kinds: Sequence[str] = ("kill", "stop")
    faults: Counter[str] = field(default_factory=Counter)
    recoveries: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def run(self) -> dict[str, Any]:
        """Start the run, inject faults, stop the run, and report.

        Raises:
            UserError: if a role or a fault is unknown, or this process may not make the fault.
            RunError: if the run does not start, recover or end.
        """
        check_names("--kill", ROLES, self.roles)
        check_names("--fault", KINDS, self.kinds)
        changes = clocks(self.log.with_name("clocks")) if "clock" in self.kinds else {}
        with small_disk(self.folder) if "disk" in self.kinds else contextlib.nullcontext():
            with self.log.open("w") as log:
                process = subprocess.Popen(
                    self.command,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    start_new_session=True,
                    preexec_fn=dies_with_parent(signal.SIGKILL),  # noqa: PLW1509  (runs one system call)
                    env={**os.environ, **changes},
                )
            return self._report(*self._harmed(process))

    def _harmed(self, process: subprocess.Popen[str]) -> tuple[Watch, int, str]:
        """Inject faults into a run; returns the observations, the exit code and the output."""
        try:
            self._wait_for_run(process)
            control = read_json(self.folder / "run.json")["control"]
            watch = Watch(control, self.folder / EVENTS_FILE)
            with watch, operator_client(control) as hub:
                self._harm(process, hub, watch)
                hub.stop()
            output, _ = process.communicate(timeout=ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            raise RunError(
                f"the run did not end within {ENDS_WITHIN_S:g} s after the stop request; its output is in {self.log}"
            ) from None
        finally:
            self._end(process)
        return watch, process.returncode, output

    def _wait_for_run(self, process: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + STARTS_WITHIN_S
        while not has_checkpoint(self.folder):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RunError(f"the run saved no checkpoint within {STARTS_WITHIN_S:g} s; its output is in {self.log}")
            time.sleep(LOOK_EVERY_S)

    def _harm(self, process: subprocess.Popen[str], hub: OperatorClient, watch: Watch) -> None:
        random, end = Random(self.seed), time.monotonic() + self.seconds
        scene = Scene(self.folder, process.pid, self.seconds, watch.planned, self.log.with_name("clocks"))
        while time.monotonic() < end:
            time.sleep(random.uniform(*BETWEEN_S))
            if process.poll() is not None:
                raise RunError(
                    f"the run ended with {process.returncode} after {self.faults.total()} faults; its output is in {self.log}"
                )
            (kind,) = random.choices(self.kinds, [WEIGHTS[kind] for kind in self.kinds])
            if kind in FAULTS:
                self._special(kind, scene, random, hub)
            else:
                self._fault(random, scene, hub, killed=kind == "kill")
            watch.look_for_losses()

    def _special(self, kind: str, scene: Scene, random: Random, hub: OperatorClient) -> None:
        """Inject one of `FAULTS` and wait until the run trains again."""
        name = FAULTS[kind](scene, random)
        if not name:
            return
        self.faults[name] += 1
        seen: list[int] = []

        def recovered() -> bool:
            _, trained = self._progress(hub, {"role": "learner"})
            if trained >= 0:
                seen.append(trained)
            return bool(seen) and seen[-1] > seen[0]

        self._await(recovered, "the run", name)

    def _processes(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = read_json(self.folder / "run.json").get("processes", [])
        return found

    def _fault(self, random: Random, scene: Scene, hub: OperatorClient, *, killed: bool) -> None:
        """Kill a process or stop it for a while, and wait until it has recovered."""
        victims = scene.processes(random.choice(list(self.roles)))
        if not victims:
            return
        victim = random.choice(victims)
        role, before = victim["role"], self._progress(hub, victim)
        if killed:
            signalled(victim["pid"], signal.SIGKILL)
        else:
            with scene.planned(), stopped(victim["pid"]):
                time.sleep(random.uniform(*STOPPED_S))
        self.faults[f"{role} {'killed' if killed else 'stopped'}"] += 1
        self._await(lambda: self._recovered(hub, victim, before, killed=killed), f"{role} {victim['id']}", role)

    def _await(self, recovered: Callable[[], bool], who: str, name: str) -> None:
        """Wait for a recovery and record its duration.

        Raises:
            RunError: if it takes too long.
        """
        began = time.monotonic()
        while not recovered():
            if time.monotonic() - began > RECOVERS_WITHIN_S:
                raise RunError(
                    f"{who} has not recovered within {RECOVERS_WITHIN_S:g} s after fault {self.faults.total()}, "
                    f"{name}; its output is in {self.log}"
                )
            time.sleep(LOOK_EVERY_S)
        self.recoveries[name].append(time.monotonic() - began)

    def _progress(self, hub: OperatorClient, victim: Mapping[str, Any]) -> tuple[int, int]:
        """(incarnation, env steps) of an actor, or (0, trained trajectories); -1 if unknown."""
        status = hub.status() or {}
        if victim["role"] != "actor":
            ledger = status.get("ledger", {})
            return 0, ledger.get("trained", -1) + ledger.get("dropped", {}).get("rolled_back", 0)
        for actor in status.get("actors", []):
            if actor["actor_id"] == victim["id"]:
                return actor["incarnation"], actor.get("env_steps", 0)
        return -1, -1

    def _recovered(self, hub: OperatorClient, victim: Mapping[str, Any], before: tuple[int, int], *, killed: bool) -> bool:
        """Whether the process or its replacement makes progress again."""
        incarnation, steps = self._progress(hub, victim)
        if victim["role"] != "actor":
            restarted = not killed or all(entry["pid"] != victim["pid"] for entry in self._processes())
            return restarted and steps > before[1]
        return (incarnation > before[0] and steps > 0) or (not killed and incarnation == before[0] and steps > before[1])

    def _end(self, process: subprocess.Popen[str]) -> None:
        """End the supervisor, which ends its children; kill all of them if it does not."""
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

    def _report(self, watch: Watch, code: int, output: str) -> dict[str, Any]:
        try:
            summary = json.loads(output)
        except ValueError:
            raise RunError(f"the run ended with {code} and wrote no summary; its output is in {self.log}") from None
        ledger: dict[str, Any] = summary["ledger"]
        columns = ("trained", "queued", "in_flight", "unsent_at_death", "lost")
        accounted = sum(ledger.get(name, 0) for name in columns) + sum(ledger.get("dropped", {}).values())
        produced, lost = ledger.get("produced", 0), ledger.get("lost", 0)
        silent = watch.silent_losses(lost)
        balanced = bool(ledger) and accounted == produced >= watch.produced
        return {
            "seed": self.seed,
            "seconds": self.seconds,
            "exit_code": code,
            "faults": dict(sorted(self.faults.items())),
            "faults_survived": sum(self.faults.values()),
            "produced": produced,
            "accounted": accounted,
            "lost": lost,
            "lost_in_silence": silent,
            "damage_reported": watch.damage_events(),
            "longest_gap_seconds": round(watch.longest_gap, 3),
            "refused": watch.refused,
            "recovery_seconds": {role: quantiles(times) for role, times in sorted(self.recoveries.items())},
            "good": code == 0 and balanced and silent == 0,
            "ledger": ledger,
            "run_dir": str(self.folder),
        }


def check_names(option: str, known: Sequence[str], given: Sequence[str]) -> None:
    """Check the names that were given to an option.

    Raises:
        UserError: if a name is unknown, or none was given.
    """
    unknown = sorted(set(given) - set(known))
    if unknown or not given:
        raise UserError(f"{option} takes some of {', '.join(known)}, got {', '.join(unknown) or 'nothing'}")


def quantiles(times: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile and maximum, in seconds."""
    ordered = sorted(times)
    at = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {name: round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3) for name, share in at.items()}


def chaos_command(recipe: str, assignments: Sequence[str], folder: Path, *, seed: int, kinds: Sequence[str] = ()) -> list[str]:
    """The command line of a run without a budget, with frequent checkpoints and unlimited restarts.

    Trajectories are acknowledged once they are on the disk, so that killing the replay server loses
    none.
    """
    lasting = ["trainer.total_timesteps=1000000000000", "trainer.checkpoint_every=20"]
    lasting += ["trainer.max_restarts=1000", "actors.max_restarts=1000"]
    lasting += ["replay.max_restarts=1000", "replay.acknowledge=durable"]
    lasting += [setting for kind in kinds for setting in SETTINGS.get(kind, ())]
    options = ["--run-dir", str(folder), "--seed", str(seed), "--json"]
    if "flood" in kinds:  # only TCP ports can be flooded
        options += ["--listen", f"tcp://127.0.0.1:{free_port()}"]
    return [sys.executable, "-m", "deploy", "train", recipe, *lasting, *assignments, *options]


def free_port() -> int:
    """The first of four consecutive free ports, below the range of client ports."""
    while True:
        first = secrets.choice(PORTS)
        with contextlib.suppress(OSError), contextlib.ExitStack() as probes:
            for port in range(first, first + 4):
                probes.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
