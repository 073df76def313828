"""One million parameters to 64 actors on this host: the learner's time, and the time to all actors.

It uses a real hub, a real publisher, and 64 receivers in a few processes. Each receiver fetches and verifies
every version and loads it into its own network, as actors do. The time of a version is from `pack` at the
learner until it is in an actor's network. Publishing is `pack` and `push`, which is the part that a learner
step waits for.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy

import numpy as np
import zmq

from agent.model import AgentModel, acting_layout
from agent.settings import AgentSettings
from agent.spec import AgentSpec
from agent.unpack_weights import load_packed
from benchmarks.harness import Arm, Effort, Figure, Rounds
from benchmarks.processes import answer_of, arguments_of, start_python
from benchmarks.replay import CASES, config_of, server
from learner.pack_weights import pack
from oatmill.settings.flat import joining_config
from protocol.channels import ControlClient, WeightsPublisher
from protocol.channels.connection import Connection
from protocol.data.spaces import ActionSpace, ObservationSpace, Spaces
from protocol.peers.weights import CHUNK_BYTES, ReceiverPeer

WARM_UP = False
SPEC = AgentSpec(
    Spaces(ObservationSpace("vector", (4,), "float32"), ActionSpace((2,))),
    AgentSettings(hidden_sizes=(993, 993), value_head="scalar"),
)
"""5 x 993 + 994 x 993 + 994 x 3 = 995,989 parameters that are needed for acting."""
ACTORS, PROCESSES = 64, 2
EVERY_S = 0.5
START_S = 60.0
GOAL_APPLIED_MS, GOAL_BLOCKED_MS = 100.0, 2.0


def arms(effort: Effort, stack: ExitStack) -> dict[str, Arm]:  # noqa: ARG001  (the harness's signature)
    """One fleet."""
    versions = 2 if effort.quick else max(4, int(effort.seconds / EVERY_S))
    return {f"{ACTORS} actors": lambda: fan_out(versions)}


@contextmanager
def publisher_of(address: str) -> Iterator[tuple[WeightsPublisher, str]]:
    """A learner's publisher, and the address from which weights are pulled."""
    config = config_of(CASES["cartpole"], 1.0)
    control = ControlClient(address, role="learner", description={"config": joining_config(config), "rank": 0, "world": 1})
    welcome = control.join(10)
    publisher = WeightsPublisher(welcome.endpoints["weights"], welcome=welcome)
    try:
        yield publisher, welcome.endpoints["weights"]
    finally:
        publisher.close()
        control.close()


def fan_out(versions: int) -> dict[str, float]:
    """Publish several versions to waiting actors."""
    model = AgentModel(SPEC)
    with server(config_of(CASES["cartpole"], 1.0), "ipc") as (address, _), publisher_of(address) as (publisher, endpoint):
        arguments = (endpoint, str(ACTORS // PROCESSES), str(versions))
        children = [start_python("benchmarks.suite.weights", *arguments) for _ in range(PROCESSES)]
        publisher.push(pack(model, 0, "bfloat16"))
        publisher.flush(10)
        for child in children:  # each prints a line when all of its actors have the first version
            assert child.stdout is not None, "it is piped"
            child.stdout.readline()
        started, kept, cpu = [], [], []
        for version in range(1, versions + 1):
            began = time.thread_time()
            started.append(time.monotonic())
            publisher.push(pack(model, version, "bfloat16"))
            kept.append(time.monotonic() - started[-1])
            cpu.append(time.thread_time() - began)
            publisher.flush(10)
            time.sleep(EVERY_S)
        found = [answer_of(child) for child in children]
    applied = [at - started[version - 1] for child in found for actor in child for version, at in actor if version > 0]
    return {
        "applied_p50_ms": 1e3 * float(np.quantile(applied, 0.5)),
        "applied_p99_ms": 1e3 * float(np.quantile(applied, 0.99)),
        "blocked_ms": 1e3 * float(np.median(kept)),
        "blocked_max_ms": 1e3 * max(kept),
        "blocked_cpu_ms": 1e3 * float(np.median(cpu)),
        "missed": ACTORS * versions - len(applied),
    }


def receivers_main(endpoint: str, count: int, versions: int) -> None:
    """Run one process of receivers; prints when each of them received each version."""
    first = AgentModel(SPEC)
    models = [first, *(deepcopy(first) for _ in range(count - 1))]  # because creating one takes a tenth of a second
    peers = [ReceiverPeer(acting_layout(model)) for model in models]
    lines = [Connection(endpoint, peer, max_message_bytes=CHUNK_BYTES) for peer in peers]
    poller = zmq.Poller()
    actors = zip(peers, lines, models, made_lists(count), strict=True)
    by_handle = {line.handle: (peer, line, model, times) for peer, line, model, times in actors}
    for peer, line, _, _ in by_handle.values():
        peer.want(0)
        line.turn()
        poller.register(line.handle, zmq.POLLIN)
    deadline, greeted = time.monotonic() + START_S + versions * (EVERY_S + 10), False
    while time.monotonic() < deadline and any(peer.version < versions for peer in peers):
        if not greeted and all(peer.version >= 0 for peer in peers):
            greeted = True
            print("ready", flush=True)
        ready = [handle for handle, _ in poller.poll(20)]
        # Messages that could not be sent yet, because there was no connection, are sent only by a later turn.
        for handle in ready if greeted else by_handle:
            peer, line, model, times = by_handle[handle]
            line.turn()
            if (weights := peer.take()) is not None:
                load_packed(model, weights)
                times.append((weights.version, time.monotonic()))
                peer.want(weights.version + 1)
                line.turn()
    sys.stdout.write(json.dumps([times for *_, times in by_handle.values()]))


def made_lists(count: int) -> list[list[tuple[int, float]]]:
    """One list per receiver."""
    return [[] for _ in range(count)]


def figures(rounds: Rounds) -> dict[str, Figure]:
    """The slowest actor's time, and the learner's."""
    (arm,) = rounds.values
    return {
        "applied everywhere, p99": Figure(rounds.median(arm, "applied_p99_ms"), "ms", "lower", GOAL_APPLIED_MS),
        "applied, p50": Figure(rounds.median(arm, "applied_p50_ms"), "ms", "lower"),
        "learner blocked": Figure(rounds.median(arm, "blocked_ms"), "ms", "lower", GOAL_BLOCKED_MS),
        "learner blocked, longest": Figure(rounds.median(arm, "blocked_max_ms"), "ms", "lower"),
        "learner blocked, CPU of its thread": Figure(rounds.median(arm, "blocked_cpu_ms"), "ms", "lower"),
        "versions that an actor skipped": Figure(rounds.median(arm, "missed"), "of all", "lower"),
    }


if __name__ == "__main__":
    receivers_main(*arguments_of(__doc__, endpoint=str, count=int, versions=int))
