"""A real replay server with its log on a real disk is killed at every point of a commit, and runs out of space."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from oatmill.process.failpoints import NAMES, VARIABLE
from replay.settings import ReplaySettings
from tests.replay.serving import CONFIG, Actor, Learner, Server, start, total
from tests.small_disks import mounted

LOG_POINTS = [name for name in NAMES if not name.startswith(("checkpoint.", "buffer."))]
QUICK = ["log.sync.before:4", "ack.before:9"]
COUNTS = {"log": (3, 4, 5, 12, 30), "ack": (9, 20, 30, 60)}  # later than the moment at which everybody has joined
THOROUGH = [f"{name}:{count}" for name in LOG_POINTS for count in COUNTS[name.partition(".")[0]]]
BLOCKS = 40


def configure(folder: Path, **replay: Any) -> None:
    """Write the config of a durable server."""
    settings = ReplaySettings(acknowledge="durable", queue_batches=2.0, max_policy_lag=1000, **replay)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG | {"replay": settings.model_dump(mode="json")}))


class Pair:
    """An actor and a learner that outlive their server.

    Args:
        server: the first one.
    """

    def __init__(self, server: Server) -> None:
        self.learner: Learner = server.learner()
        self.learner.publish(0)
        self.actor: Actor = server.actor()
        self.trained: list[int] = []
        self.asked = False
        self.rejoined = 0

    def turn(self, blocks: int) -> None:
        """Do what can be done now."""
        self.actor.control.heartbeat({})
        self.learner.control.heartbeat({})
        if self.learner.control.rejoined > self.rejoined:
            self.rejoined = self.learner.control.rejoined
            self.learner.publisher.push_again()
        if self.actor.sender.produced < blocks * self.actor.rows and self.actor.sender.wait_ready(0.01):
            self.actor.offer()
        self.actor.sender.pump()
        if not self.asked:
            self.learner.batches.request(len(self.trained))
            self.asked = True
        delivery = self.learner.batches.poll(0.01)
        if delivery is not None:
            self.asked = False
            self.trained += delivery.batch.observations[:, 0, 1].astype(int).tolist()
            self.learner.batches.consumed(delivery.batch.batch_id, 0)


def run_until_dead(server: Server, pair: Pair) -> None:
    deadline = time.monotonic() + 60
    while server.process.poll() is None and time.monotonic() < deadline:
        pair.turn(BLOCKS)
    assert server.process.poll() == 1, "the failpoint was not reached"


@pytest.mark.parametrize(
    "point", [*QUICK, *(pytest.param(point, marks=pytest.mark.slow) for point in THOROUGH if point not in QUICK)]
)
def test_a_server_that_is_killed_at_any_point_of_a_commit_keeps_its_promises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    configure(tmp_path)
    monkeypatch.setenv(VARIABLE, point)
    first = start(tmp_path, "ipc")
    second: Server | None = None
    try:
        with first.channels:
            pair = Pair(first)
            run_until_dead(first, pair)
            monkeypatch.delenv(VARIABLE)
            second = start(tmp_path, "ipc")
            deadline = time.monotonic() + 60
            while len(pair.trained) < BLOCKS * 2 and time.monotonic() < deadline:
                pair.turn(BLOCKS)
            assert pair.trained == list(range(BLOCKS * 2)), "each once, in order, none missing"
            pair.turn(BLOCKS)
            ledger = second.ask("status")["ledger"]
            assert (ledger["lost"], ledger["produced"]) == (0, total(ledger))
            assert ledger["trained"] + ledger["in_flight"] == BLOCKS * 2
    finally:
        for server in (first, second):
            if server is not None:
                server.process.terminate()
                server.process.communicate(timeout=120)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    with mounted(tmp_path / "small", 1):
        yield tmp_path / "small"


def readyz(server: Server) -> int:
    try:
        with urllib.request.urlopen(server.endpoint["metrics"].replace("metrics", "readyz"), timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def until(done: Any, pair: Pair, blocks: int = BLOCKS) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        pair.turn(blocks)


def fill(ballast: Path) -> None:
    """Use up all free space."""
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def test_a_full_disk_stops_acknowledgements_until_there_is_room(tmp_path: Path, small_disk: Path) -> None:
    configure(tmp_path, log_dir=str(small_disk / "log"))
    server = start(tmp_path, "ipc")
    try:
        with server.channels:
            pair = Pair(server)
            until(lambda: len(pair.trained) >= 16, pair)
            assert readyz(server) == 200
            ballast = small_disk / "ballast"
            fill(ballast)
            until(lambda: readyz(server) == 503, pair)
            before = pair.actor.sender.unacknowledged
            for _ in range(20):
                pair.turn(BLOCKS)
            assert pair.actor.sender.unacknowledged >= before > 0
            ballast.unlink()
            until(lambda: len(pair.trained) == 2 * BLOCKS, pair)
            assert pair.trained == list(range(2 * BLOCKS))
            until(lambda: readyz(server) == 200, pair)
    finally:
        server.process.terminate()
        server.process.communicate(timeout=120)
