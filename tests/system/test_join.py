"""`oatmill join`: actors of a run that another command has started. Real processes, with keys, over TCP."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from protocol.security.keys import make_keys
from runner.operator_client import OperatorClient, operator_client
from tests.ports import free_ports
from tests.system.real_runs import ENDLESS, Train, accounted, all_gone, command, environment, oatmill, training

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


class Joined:
    """A running `oatmill join` with two actors; its logs are in `logs`."""

    def __init__(self, folder: Path, address: str) -> None:
        self.logs, self.began = folder / "logs", time.monotonic()
        arguments = ["join", address, "--actors", "2", "--keys", "keys/actor", "--log-dir", "logs"]
        self.output = folder / "join.txt"
        with self.output.open("a") as file:
            self.process = subprocess.Popen(command(*arguments), cwd=folder, env=environment(), stdout=file, stderr=file)

    def actor(self, number: int) -> psutil.Process:
        """The process of one of its actors."""
        words = ["--actor-id", str(number)]
        return next(
            child for child in psutil.Process(self.process.pid).children(recursive=True) if child.cmdline()[-2:] == words
        )


@contextmanager
def joined(folder: Path, address: str) -> Iterator[Joined]:
    """A machine that has joined, and is gone at the end."""
    made = Joined(folder, address)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait()
        assert all_gone(made.logs), "its actors end with it"


class Watch:
    """What the hub says of its run."""

    def __init__(self, hub: OperatorClient, train: Train) -> None:
        self.hub, self.train = hub, train
        self.status: Mapping[str, Any] = {}

    def until(self, done: Callable[[Watch], bool]) -> float:
        """Wait for a status, and return how long that took."""
        began = time.monotonic()

        def asked() -> bool:
            self.status = self.hub.status() or self.status
            return bool(self.status) and done(self)

        self.train.until(asked, within_s=240)
        return time.monotonic() - began

    def working(self, number: int, incarnation: int = 1) -> bool:
        """Whether an actor has sent trajectories."""
        found = [actor for actor in self.status["actors"] if actor["actor_id"] == number]
        return any(one["incarnation"] == incarnation and one["alive"] and one.get("produced", 0) > 0 for one in found)

    @property
    def live(self) -> set[int]:
        """The numbers of the actors that are there."""
        return {actor["actor_id"] for actor in self.status["actors"] if actor["alive"]}

    @property
    def targets(self) -> tuple[int, list[int]]:
        """The target of the run's own machine, and those of the others."""
        return self.status["own_actors"], [machine["share"] for machine in self.status["machines"]]


def test_a_machine_joins_keeps_its_actors_alive_follows_scale_and_leaves_in_order(tmp_path: Path) -> None:
    make_keys(tmp_path / "keys")
    port = free_ports()
    listen = ["--listen", f"tcp://127.0.0.1:{port}", "--keys", "keys"]
    with (
        training(tmp_path, *listen, *ENDLESS) as train,
        operator_client(f"tcp://127.0.0.1:{port + 2}", tmp_path / "keys") as hub,
    ):
        watch = Watch(hub, train)
        watch.until(lambda seen: seen.working(0))
        with joined(tmp_path, f"127.0.0.1:{port + 2}") as machine:
            watch.until(lambda seen: seen.working(1) and seen.working(2))
            sys.stdout.write(f"first trajectories of both actors after {time.monotonic() - machine.began:.1f} s\n")
            assert (watch.targets, watch.status["desired_actors"]) == ((1, [2]), 3)

            machine.actor(1).kill()
            again = watch.until(lambda seen: seen.working(1, incarnation=2))
            sys.stdout.write(f"a killed actor sends trajectories again after {again:.1f} s\n")

            hub.scale(1)
            watch.until(lambda seen: seen.live == {1})
            assert watch.targets == (0, [1])
            hub.scale(3)
            watch.until(lambda seen: seen.live == {0, 1, 2})
            assert watch.targets == (1, [2])

            machine.process.send_signal(signal.SIGTERM)
            assert machine.process.wait(60) == 0, machine.output.read_text()
            watch.until(lambda seen: seen.live == {0})
            assert (watch.targets, watch.status["desired_actors"]) == ((1, []), 1)
            assert all_gone(machine.logs)
            said = machine.output.read_text()
            assert "actor 1 was killed by SIGKILL; restarting in 0 s" in said
            assert "leaving the run" in said
        with joined(tmp_path, f"tcp://127.0.0.1:{port + 2}") as machine:
            watch.until(lambda seen: len(seen.live) == 3)
            assert oatmill(tmp_path, "stop").returncode == 0
            assert machine.process.wait(60) == 0, machine.output.read_text()
            assert "the run has ended" in machine.output.read_text()
        assert train.end() == 0, train.errors.read_text()
        ledger = train.summary()["ledger"]
        assert ledger["produced"] == accounted(ledger), ledger
        assert not [event for event in train.events() if event["event"] == "actor_restarted"], "its own actors are left alone"
