"""A run whose replay server, learner and actors are real processes on hosts of their own, with keys."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from protocol.security.keys import make_keys
from tests.network.network import Host, Network
from tests.network.numbered import NUMBER, RECORD, check_record
from tests.network.places import Process, network_of, until
from tests.system.real_runs import accounted, command, environment

UNROLL = 16
CONTROL_PORT = 7302
SETTINGS = [
    "cartpole",
    "env={kind: factory, factory: 'tests.network.numbered:Numbered'}",
    "trainer.extra_losses=[tests.network.numbered:choose]",
    f"actors.unroll_length={UNROLL}",
    "trainer.epochs=1",
    "trainer.minibatches=1",
    "trainer.optimizer.schedule=constant",
    "trainer.total_timesteps=1000000000",
    "replay.max_policy_lag=1000000",  # nothing is stale, so whatever is missing is missing by fault
    "metrics.report_every=1",
]


@dataclass
class FarRun:
    """The run.

    Attributes:
        folder: of the test.
        network: between the hosts.
        replay: the host of the replay server.
        learner: the host of the learner.
        actors: the hosts of the actors.
        settings: of every role.
        processes: by name.
    """

    folder: Path
    network: Network
    replay: Host
    learner: Host
    actors: list[Host]
    settings: Sequence[str]
    processes: dict[str, Process] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """The run's control address."""
        return f"tcp://{self.replay.address}:{CONTROL_PORT}"

    @property
    def record(self) -> Path:
        """What was trained on."""
        return self.folder / "record.jsonl"

    def start(self, stack: ExitStack, name: str, host: Host, arguments: Sequence[str], **more: str) -> None:
        """Start a process; it ends with the stack."""
        process = Process(host, arguments, environment() | {RECORD: str(self.record)} | more, self.folder / f"{name}.log")
        stack.callback(process.end)
        self.processes[name] = process

    def start_all(self, stack: ExitStack) -> None:
        """Start every role, each with its own keys."""
        keys, run_dir = self.folder / "keys", str(self.folder / "run")
        make_keys(keys)
        to_hub = ["--address", self.address]
        at = ["--listen", f"tcp://{self.replay.address}:{CONTROL_PORT - 2}"]
        replay = command("replay", *self.settings, *at, "--run-dir", run_dir, "--keys", str(keys / "server"))
        self.start(stack, "replay", self.replay, replay)
        watch = [sys.executable, "-m", "tests.network.watch", self.address, str(keys / "operator")]
        self.start(stack, "watch", self.replay, watch)
        learner = command("learner", *self.settings, *to_hub, "--run-dir", run_dir, "--keys", str(keys / "learner"))
        self.start(stack, "learner", self.learner, learner)
        for number, host in enumerate(self.actors):
            arguments = command("actor", *self.settings, *to_hub, "--keys", str(keys / "actor"), "--actor-id", str(number))
            self.start(stack, f"actor-{number}", host, arguments, **{NUMBER: str(number)})

    def status(self) -> dict[str, Any]:
        """The hub's newest word; empty before the first."""
        said = self.processes["watch"].output.read_text()
        lines = said[: said.rfind("\n") + 1].splitlines()
        return json.loads(lines[-1]) if lines else {}

    def actor(self, number: int) -> dict[str, Any]:
        """What the hub knows of an actor; empty while it knows none."""
        return next((actor for actor in self.status().get("actors", []) if actor["actor_id"] == number), {})

    def trained(self) -> int:
        """Trajectories trained on."""
        return int(self.status().get("ledger", {}).get("trained", 0))

    def until_trained(self, more: int, within_s: float) -> float:
        """Wait for some more trajectories to be trained on; how long that took."""
        goal = self.trained() + more
        return self.until(lambda: self.trained() >= goal, within_s, f"{more} more trajectories trained on")

    def until(self, done: Any, within_s: float, what: str) -> float:
        """Wait for something while all processes live."""
        return until(done, within_s, f"{what}; status {self.status()}", alive=list(self.processes.values()))

    def pids(self) -> dict[str, int]:
        """Of every process."""
        return {name: process.pid for name, process in self.processes.items()}

    def stop(self, stack: ExitStack, within_s: float = 60.0) -> dict[str, Any]:
        """End the run as its operator does; the last ledger, once every role has ended in order."""
        return self.stop_roles(stack, "learner", *(f"actor-{number}" for number in range(len(self.actors))), within_s=within_s)

    def stop_roles(self, stack: ExitStack, *names: str, within_s: float = 60.0) -> dict[str, Any]:
        """The same; these processes end with 0."""
        stop = command("stop", "--address", self.address, "--keys", str(self.folder / "keys" / "operator"))
        self.start(stack, "stop", self.replay, stop)
        for name in ("stop", *names):
            process = self.processes[name]
            assert process.wait(within_s) == 0, process.last_words()
        time.sleep(0.5)  # the watch's next word
        ledger: dict[str, Any] = self.status()["ledger"]
        self.processes["watch"].end()
        self.processes["replay"].terminate()
        assert self.processes["replay"].wait(within_s) == 0
        return ledger

    def check(self, ledger: dict[str, Any], *, unsent: int = 0) -> dict[int, int]:
        """Every trajectory is in one column, none is lost, and what was trained on was so once, in order and without gaps.

        Args:
            ledger: the last one.
            unsent: trajectories that an actor may have had in hand when it left.
        """
        assert ledger["produced"] == accounted(ledger), ledger
        assert (ledger["lost"], ledger["dropped"]["stale"], ledger["dropped"]["rejected"]) == (0, 0, 0), ledger
        assert ledger["in_flight"] == 0, ledger
        assert ledger["unsent_at_death"] <= unsent, ledger
        trained = check_record(self.record, UNROLL)
        assert sum(trained.values()) == ledger["trained"], (trained, ledger)
        return trained


@contextmanager
def far_run(folder: Path, *settings: str, actors: int = 2, seed: int = 0) -> Iterator[tuple[FarRun, ExitStack]]:
    """A run on hosts of their own; nothing of it is left at the end."""
    names = ["replay", "learner", *(f"actor{number}" for number in range(actors))]
    with network_of(*names, seed=seed) as (network, hosts), ExitStack() as stack:
        run = FarRun(folder, network, hosts[0], hosts[1], hosts[2:], [*SETTINGS, *settings])
        run.start_all(stack)
        yield run, stack
