"""Many synthetic actors on the real replay server: rate, acknowledgement latency and memory. `python -m benchmarks.fleet`.

The actors have no environments and no torch. Each is a state machine with its own sockets, and a few
processes run a few hundred actors each. An actor joins, sends a heartbeat every two seconds, and sends
trajectories of 46 KB at a fixed rate. A learner takes batches as fast as they come.

All of this runs on the cores that the server needs, so work that a thousand hosts would share is done
once or as cheaply as possible: all actors send the same packed trajectory, and their connections are
those of `benchmarks.zmtp`. Headers, sequence numbers, credit and acknowledgements are separate for each
actor and use the state machine of real actors.
"""

from __future__ import annotations

import argparse
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import zmq

from benchmarks.zmtp import Dealer
from protocol.channels import BatchClient, ControlClient
from protocol.data.run_schema import RunSchema
from protocol.data.spaces import ActionSpace, ObservationSpace, Spaces
from protocol.data.trajectory import TrajectoryBlock
from protocol.peers.trajectory import TrajectorySenderPeer
from protocol.wire.deadlines import HEARTBEAT_EVERY_S
from tests.replay.serving import CONFIG, Server, control_of, start

STEPS, WIDTH = 16, 700
"""17 observations of 700 float32 are 47,600 bytes, or 46 KB."""
BATCH = 256
JOIN_S, SETTLE_S, SWEEP_S, TURN_S = 30.0, 1.0, 0.5, 0.002
SPACES = Spaces(ObservationSpace("vector", (WIDTH,), "float32"), ActionSpace((4,)))
SCHEMA = RunSchema(SPACES, 0, ())
DESCRIPTION = {"spaces": SPACES.to_dict(), "episode_statistics": [], "rows": 1}


def block() -> TrajectoryBlock:
    """A block with one trajectory."""
    flags = np.zeros((1, STEPS), np.bool_)
    zeros = np.zeros((1, STEPS), np.float32)
    none = np.zeros(0, np.int32)
    return TrajectoryBlock(
        observations=np.ones((1, STEPS + 1, WIDTH), np.float32),
        actions=np.zeros((1, STEPS), np.int32),
        rewards=zeros,
        terminated=flags,
        truncated=flags,
        valid=~flags,
        behaviour_logits=np.zeros((1, STEPS, 4), np.float32),
        behaviour_value=zeros,
        core_state=np.zeros((1, 0), np.float32),
        final_observations=np.zeros((0, WIDTH), np.float32),
        final_trajectory=none,
        final_step=none,
        episode_return=np.zeros(0, np.float32),
        episode_length=none,
        episode_statistics=np.zeros((0, 0), np.float32),
        policy_version=0,
    )


class SyntheticActor:
    """One actor: two state machines on two DEALER sockets. One joins and sends heartbeats, the other sends data."""

    def __init__(self, address: str) -> None:
        self.control: ControlClient = control_of(address, 1, None, DESCRIPTION)
        welcome = self.control.join(JOIN_S)
        self.peer = TrajectorySenderPeer(
            actor_id=welcome.actor_id,
            incarnation=welcome.incarnation,
            schema=SCHEMA,
            rows=1,
            when_full="block",
            session=welcome.session,
        )
        self.socket = Dealer(welcome.endpoints["data"])
        self.due = 0.0
        self.offered: list[float] = []
        self.acknowledged = 0

    def hear(self, now: float, latencies: list[float]) -> None:
        """Process received messages and record the acknowledgement times."""
        for header, payload in self.socket.receive():
            self.peer.receive(header, payload, now)
        done = len(self.offered) - self.peer.unacknowledged
        latencies += [now - at for at in self.offered[self.acknowledged : done]]
        self.acknowledged = done

    def act(self, now: float, every_s: float, content: TrajectoryBlock, packed: memoryview) -> float | None:
        """Send everything that is due. Returns the time of the next action, or None while waiting for an answer."""
        offers = now >= self.due and self.peer.ready
        if offers:
            self.peer.offer_packed(packed, content)
            self.offered.append(now)
            self.due = max(self.due + every_s, now - every_s)
        for frames in self.peer.send(now):
            self.socket.send(frames)
        if not self.socket.idle:
            self.socket.send()
            return now
        return self.due if offers else None

    def live(self) -> None:
        """Send a heartbeat."""
        self.control.heartbeat({"env_steps": STEPS * len(self.offered)})


class Alarms:
    """Selects the actors that have received a message or have something to do.

    It would take more CPU time than the measured server to poll all sockets at every turn.

    Args:
        actors: all actors of the process, each with its `due`.
    """

    def __init__(self, actors: list[SyntheticActor]) -> None:
        self._everyone = set(range(len(actors)))
        self._wakes = select.epoll()
        self._by_handle = {actor.socket.handle: number for number, actor in enumerate(actors)}
        for handle in self._by_handle:
            self._wakes.register(handle, select.EPOLLIN)
        self._due = [(actor.due, number) for number, actor in enumerate(actors)]
        self._sweep_at = 0.0

    def due(self, at: float, number: int) -> None:
        """Schedule an actor for a time."""
        heappush(self._due, (at, number))

    def awake(self, now: float) -> set[int]:
        """The actors to serve now. From time to time these are all actors, so that they can repeat messages."""
        awake = {self._by_handle[handle] for handle, _ in self._wakes.poll(0)}
        while self._due and self._due[0][0] <= now:
            awake.add(heappop(self._due)[1])
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_S
            return self._everyone
        return awake


def actors_main(address: str, count: int, rate: float, seconds: float, latencies_file: str) -> None:
    """Run one process of actors; saves the acknowledgement times."""
    every, content = count / rate, block()
    packed = SCHEMA.trajectory.pack(content)
    # Each connection to the hub has a socket, and two more sockets watch its handshake.
    zmq.Context.instance().set(zmq.MAX_SOCKETS, 3 * count + 10)
    actors = [SyntheticActor(address) for _ in range(count)]
    began = time.monotonic() + SETTLE_S
    for number, actor in enumerate(actors):
        actor.due = began + every * number / count
    alarms = Alarms(actors)
    lives = deque((began - HEARTBEAT_EVERY_S * (1 - number / count), number) for number in range(count))
    latencies: list[float] = []
    while (now := time.monotonic()) < began + seconds:
        while lives[0][0] <= now:
            at, number = lives.popleft()
            actors[number].live()
            lives.append((at + HEARTBEAT_EVERY_S, number))
        for number in alarms.awake(now):
            actor, now = actors[number], time.monotonic()
            actor.hear(now, latencies)
            again = actor.act(now, every, content, packed)
            if again is not None:
                alarms.due(again, number)
        time.sleep(TURN_S)
    np.save(latencies_file, np.array(latencies))


@contextmanager
def configured() -> Iterator[None]:
    """While this context is active, the test server's settings are those of this benchmark."""
    before = deepcopy(CONFIG)
    CONFIG["actors"]["unroll_length"] = STEPS
    CONFIG["trainer"]["batch_size"] = BATCH
    CONFIG["replay"] |= {"queue_batches": 16.0}
    try:
        yield
    finally:
        CONFIG.clear()
        CONFIG.update(before)


def learn(client: BatchClient, stop: threading.Event) -> None:
    """Take batches until the stop request."""
    step = 0
    while not stop.is_set():
        client.request(step)
        while (delivery := client.poll(0.2)) is None and not stop.is_set():
            pass
        if delivery is not None:
            client.consumed(delivery.batch.batch_id, 0)
            step += 1


def measure(folder: Path, *, actors: int, rate: float, seconds: float, processes: int) -> dict[str, Any]:
    """Measure one run with its own server."""
    with configured():
        return _measure(folder, actors, rate, seconds, processes)


def _measure(folder: Path, actors: int, rate: float, seconds: float, processes: int) -> dict[str, Any]:
    server, stop = start(folder, "ipc"), threading.Event()
    try:
        learner = server.learner()
        learner.publish(0)
        trainer = threading.Thread(target=learn, args=(learner.batches, stop))  # from here on only this thread uses it
        trainer.start()
        command = [sys.executable, "-m", "benchmarks.fleet", "--child", server.control]
        numbers = [str(actors // processes), str(rate / processes), str(seconds)]
        files = [folder / f"latencies-{number}.npy" for number in range(processes)]
        children = [subprocess.Popen([*command, *numbers, str(file)]) for file in files]
        peak = watch_memory(server, learner.control, children)
        if any(child.returncode for child in children):
            raise SystemExit(f"a process of actors ended with {[child.returncode for child in children]}")
        latencies = np.concatenate([np.load(file) for file in files])
        stop.set()
        trainer.join()
        status = server.ask("status")
        server.channels.close()
    finally:
        stop.set()
        server.process.kill()
        server.process.communicate()
    quantiles = np.quantile(latencies, (0.5, 0.99)) if len(latencies) else (float("nan"),) * 2
    return {
        "actors": actors,
        "acknowledged_per_second": len(latencies) / seconds,
        "ack_p50_ms": 1e3 * quantiles[0],
        "ack_p99_ms": 1e3 * quantiles[1],
        "ingest_peak_rss_mb": peak / 1e6,
        "trained": status["ledger"]["trained"],
        "lost": status["ledger"]["lost"],
        "taken_for_dead": status["expired"],
    }


def watch_memory(server: Server, control: ControlClient, children: list[subprocess.Popen[bytes]]) -> int:
    """The peak resident memory of ingest until the actors have ended; sends the learner's heartbeats."""
    peak = 0
    while any(child.poll() is None for child in children):
        peak = max(peak, psutil.Process(server.ingest.pid).memory_info().rss)
        control.heartbeat({})
        time.sleep(0.2)
    return peak


def main() -> None:
    """Measure, or run one process of actors if asked to."""
    if sys.argv[1:2] == ["--child"]:
        address, count, rate, seconds, file = sys.argv[2:]
        with configured():
            actors_main(address, int(count), float(rate), float(seconds), file)
        return
    parser = argparse.ArgumentParser(description="Many synthetic actors on the real replay server.")
    parser.add_argument("--actors", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=5000.0, help="trajectories a second, all actors together")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="oatmill-fleet-") as folder:
        found = measure(
            Path(folder), actors=options.actors, rate=options.rate, seconds=options.seconds, processes=options.processes
        )
    for name, value in found.items():
        print(f"{name:28}{value:,.1f}" if isinstance(value, float) else f"{name:28}{value:,}")


if __name__ == "__main__":
    main()
