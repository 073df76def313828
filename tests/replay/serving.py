"""A real replay server for a test, and an actor and a learner that use it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
import yaml

from oatmill.errors import JoinRefusedError
from oatmill.settings.flat import joining_config
from protocol.channels import BatchClient, ControlClient, Delivery, TrajectorySender, WeightsPublisher, WeightsReceiver, Welcome
from protocol.data.weights import Layout, Weights
from protocol.security.keys import ClientKeys, client_keys
from replay.settings import ReplaySettings
from tests.replay.blocks import SCHEMA, SPACES, block

ROOT = Path(__file__).parents[2]
Joined = TypeVar("Joined")
PATIENCE_S = 60.0
"""How long a test waits for what must come; the machine may be busy."""
CONFIG: dict[str, Any] = {
    "env": {"kind": "gymnasium", "id": "Toy-v0", "kwargs": {}},
    "agent": {"core": "none", "hidden_sizes": [8]},
    "actors": {"count": 2, "unroll_length": 2},
    "replay": ReplaySettings(queue_batches=2.0, max_policy_lag=1000).model_dump(mode="json"),
    "trainer": {"batch_size": 8, "seed": 0},
    "metrics": {"host": "127.0.0.1", "port": 0},
}


@dataclass
class Server:
    """A running replay server."""

    process: subprocess.Popen[str]
    folder: Path
    control: str
    endpoint: dict[str, Any]  # endpoints/replay.json
    keys: Path | None = None  # of all roles
    channels: ExitStack = field(default_factory=ExitStack)  # closed when the test ends, however it ends

    @property
    def ingest(self) -> psutil.Process:
        """Its second process."""
        (child,) = psutil.Process(self.process.pid).children()
        return child

    def page(self, name: str) -> str:
        """One of its HTTP pages."""
        url = self.endpoint["metrics"].replace("metrics", name)
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
            return str(answer.read().decode())

    def ask(self, kind: Any, **body: Any) -> dict[str, Any]:
        """An operator's question."""
        operator = ControlClient(self.control, role="operator", description={}, keys=client_keys(self.keys, "operator"))
        try:
            return operator.request(kind, body, timeout_s=PATIENCE_S)
        finally:
            operator.close()

    def join_actor(self, *, rows: int = 2, actor_id: int | None = None, **description: Any) -> tuple[ControlClient, Welcome]:
        """Join as an actor would."""
        client = control_of(self.control, rows, actor_id, description, client_keys(self.keys, "actor"))
        self.channels.callback(client.close)
        return client, client.join(PATIENCE_S)

    def actor(self, **how: Any) -> Actor:
        """Join and open the line to ingest."""
        joined = actor(self.control, **({"keys": client_keys(self.keys, "actor")} | how))
        self.channels.callback(joined.close)
        return joined

    def learner_control(self) -> ControlClient:
        """The learner's line to the hub, not joined yet."""
        description = {"config": joining_config(CONFIG), "rank": 0, "world": 1}
        client = ControlClient(self.control, role="learner", description=description, keys=client_keys(self.keys, "learner"))
        self.channels.callback(client.close)
        return client

    def learner(self) -> Learner:
        """Join as the learner's rank 0 would."""
        client = self.learner_control()
        welcome = client.join(PATIENCE_S)
        endpoints = welcome.endpoints
        batches = BatchClient(
            endpoints["batches"], welcome=welcome, rank=0, world=1, batch_size_total=CONFIG["trainer"]["batch_size"]
        )
        joined = Learner(client, WeightsPublisher(endpoints["weights"], welcome=welcome), batches)
        self.channels.callback(joined.close)
        return joined

    def receiver(self, welcome: Welcome, layout: Layout) -> WeightsReceiver:
        """An actor's line to the weights."""
        receiver = WeightsReceiver(welcome.endpoints["weights"], layout=layout, keys=welcome.keys)
        self.channels.callback(receiver.close)
        return receiver

    def sockets(self) -> list[str]:
        """The socket files that there are."""
        return sorted(path.name for path in self.folder.iterdir() if path.is_socket())


def command(folder: Path, listen: str, *more: str) -> list[str]:
    """The command line of a replay server."""
    config = folder / "config.yaml"
    if not config.exists():
        config.write_text(yaml.safe_dump(CONFIG))
    return [sys.executable, "-m", "replay", "--config", str(config), "--run-dir", str(folder), "--listen", listen, *more]


def start(folder: Path, transport: str, *more: str, keys: Path | None = None, files: int | None = None) -> Server:
    """Start a server, which may open no more than so many files, and wait until it is ready."""
    folder.chmod(0o700)
    more = more if keys is None else (*more, "--keys", str(keys))
    listen = f"ipc://{folder}" if transport == "ipc" else "tcp://127.0.0.1:0"
    ready = folder / "port"
    ready.unlink(missing_ok=True)
    limited = [] if files is None else ["sh", "-c", f'ulimit -n {files}; exec "$@"', "sh"]
    process = subprocess.Popen(
        limited + command(folder, listen, "--port-file", str(ready), *more),
        cwd=ROOT,
        text=True,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + PATIENCE_S
    while not ready.exists():
        assert process.poll() is None, f"the server ended: {process.communicate()[1]}"
        assert time.monotonic() < deadline, "the server is not ready"
        time.sleep(0.01)
    endpoint = json.loads((folder / "endpoints" / "replay.json").read_text())
    return Server(process, folder, ready.read_text().strip(), endpoint, keys)


def successor(join: Callable[[], Joined]) -> Joined:
    """Join in place of a process whose connections were just closed, as soon as the hub has noticed this."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return join()
        except JoinRefusedError as error:
            if "(identity)" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


@contextmanager
def serving(folder: Path, transport: str = "ipc", keys: Path | None = None, *, files: int | None = None) -> Iterator[Server]:
    """A server for the length of a test; it must end with 0 and leave nothing behind, unless the test has ended it."""
    server = start(folder, transport, keys=keys, files=files)
    try:
        with server.channels:
            yield server
        if server.process.poll() is None:
            server.process.terminate()
            assert server.process.wait(PATIENCE_S) == 0
            assert server.sockets() == []
    finally:
        server.process.kill()
        server.process.communicate()


def control_of(
    control: str, rows: int, actor_id: int | None, description: dict[str, Any], keys: ClientKeys | None = None
) -> ControlClient:
    """An actor's line to the hub, not joined yet."""
    values = {
        "config": joining_config(CONFIG),
        "spaces": SPACES.to_dict(),
        "episode_statistics": list(SCHEMA.episode_statistics),
        "rows": rows,
    }
    return ControlClient(control, role="actor", description=values | description, actor_id=actor_id, keys=keys)


@dataclass
class Actor:
    """An actor whose trajectories are numbered."""

    control: ControlClient
    welcome: Welcome
    sender: TrajectorySender
    rows: int

    @property
    def mark(self) -> float:
        """What its observations carry."""
        return self.welcome.actor_id * 1000 + self.welcome.incarnation

    def offer(self, version: int = 0, **content: Any) -> None:
        """Offer the next block."""
        self.sender.offer(
            block(self.rows, version=version, mark=self.mark, first=self.sender.produced, **content),
        )

    def close(self) -> None:
        """Leave."""
        self.sender.close()
        self.control.close()


def actor(
    control: str,
    *,
    rows: int = 2,
    actor_id: int | None = None,
    when_full: Any = "block",
    compression: Any = "auto",
    keys: ClientKeys | None = None,
) -> Actor:
    """Join and open the line to ingest."""
    client = control_of(control, rows, actor_id, {}, keys)
    try:
        welcome = client.join(PATIENCE_S)
    except JoinRefusedError:
        client.close()
        raise
    data = welcome.endpoints["data"]
    schema = SCHEMA.trajectory
    sender = TrajectorySender(data, welcome=welcome, schema=schema, rows=rows, when_full=when_full, compression=compression)
    return Actor(client, welcome, sender, rows)


@dataclass
class Learner:
    """A learner of one rank that takes batches."""

    control: ControlClient
    publisher: WeightsPublisher
    batches: BatchClient
    step: int = 0

    def publish(self, version: int) -> None:
        """Publish weights of ten numbers, each the version."""
        self.publisher.push(weights(version))
        assert self.publisher.flush(PATIENCE_S)

    def take(self, timeout_s: float = PATIENCE_S) -> Delivery:
        """Ask for a batch and wait for it."""
        self.batches.request(self.step)
        self.step += 1
        delivery = self.batches.poll(timeout_s)
        assert delivery is not None, "no batch came"
        return delivery

    def close(self) -> None:
        """Leave."""
        for channel in (self.batches, self.publisher, self.control):
            channel.close()


def weights(version: int, numbers: int = 10) -> Weights:
    """Weights whose numbers are their version."""
    return Weights.pack(version, {"w": np.full(numbers, version, np.float32)}, "float32")


def total(ledger: dict[str, Any]) -> int:
    """All columns of the ledger that make up `produced`."""
    dropped = sum(ledger["dropped"].values())
    return int(
        ledger["trained"] + dropped + ledger["queued"] + ledger["in_flight"] + ledger["unsent_at_death"] + ledger["lost"]
    )
