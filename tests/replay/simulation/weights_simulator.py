"""Weights sent from a learner to actors, with a simulated network and clock that a seed determines: promise G5."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random
from typing import Any
from unittest.mock import patch

import numpy as np

from oatmill.errors import WireError
from protocol.data.weights import Weights
from protocol.peers.weights import PublisherPeer, ReceiverPeer
from replay.hub.weights_store import WeightsStore
from tests.replay.simulation.promises import keep

NUMBERS = 10
CHUNK, WINDOW = 8, 16
"""Bytes: so small that ten numbers are five chunks."""
TICK_S = 0.1
Event = tuple[float, int, Callable[[], None]]


class WeightsRun:
    """A learner that publishes, a hub, and actors that pull; messages are lost, repeated, late, and a bit is turned in some."""

    def __init__(self, seed: int) -> None:
        self.random, self.now, self.bad = Random(seed), 0.0, True
        self.store, self.publisher = WeightsStore(), PublisherPeer()
        self.actors = [ReceiverPeer((("w", (NUMBERS,)),)) for _ in range(3)]
        self.had = [-1] * 3
        self.version = -1
        self._events: list[Event] = []
        self._order = 0

    def _carry(self, frames: Any, arrive: Callable[[bytes, bytes], None]) -> None:
        header, payload = bytes(frames[0]), bytes(frames[1])
        copies = self.random.choices((0, 1, 2), (1, 8, 1))[0] if self.bad else 1
        if self.bad and payload and self.random.random() < 0.05:
            payload = payload[:-1] + bytes([payload[-1] ^ 1])
        for _ in range(copies):
            self._order += 1
            delay = self.random.uniform(0, self.random.choice((0.05, 0.05, 3.0))) if self.bad else 0.01
            heapq.heappush(self._events, (self.now + delay, self._order, lambda: arrive(header, payload)))

    def _hear(self, peer: ReceiverPeer | PublisherPeer, header: bytes, payload: bytes) -> None:
        """As `protocol.channels.connection` does: what is bad is dropped."""
        try:
            peer.receive(header, payload, self.now)
        except WireError as error:
            keep(error.reason == "weights_digest", f"only torn weights are refused: {error}")

    def tick(self, *, publishes: bool) -> None:
        """Let a tenth of a second pass."""
        self.now += TICK_S
        if publishes and self.random.random() < 0.5:
            self.version += 1
            self.publisher.push(version(self.version), 0.0)
        for frames in self.publisher.send(self.now):
            self._carry(frames, lambda header, payload: self.store.receive(b"l", header, payload, now=self.now, wall=0.0))
        for number, peer in enumerate(self.actors):
            peer.want(self.version)
            route = str(number).encode()
            for frames in peer.send(self.now):
                self._carry(frames, lambda h, p, r=route: self.store.receive(r, h, p, now=self.now, wall=0.0))  # type: ignore[misc]
        while self._events and self._events[0][0] <= self.now:
            heapq.heappop(self._events)[2]()
        for route, frames in self.store.outgoing():
            client: Any = self.publisher if route == b"l" else self.actors[int(route)]
            self._carry(frames, lambda h, p, c=client: self._hear(c, h, p))  # type: ignore[misc]
        self._check()

    def _check(self) -> None:
        for number, peer in enumerate(self.actors):
            taken = peer.take()
            if taken is not None:
                keep(taken.version > self.had[number], f"G5: {taken.version} after {self.had[number]}")
                keep(taken.buffer == version(taken.version).buffer, f"G5: version {taken.version} is torn")
                self.had[number] = taken.version


def version(number: int) -> Weights:
    """Weights whose numbers are their version."""
    return Weights.pack(number, {"w": np.full(NUMBERS, number, np.float32)}, "float32")


def simulate_weights(seed: int) -> None:
    """One run: bad for a while, then good; then every actor has the newest version.

    Raises:
        BrokenPromiseError: with the promise.
    """
    names = ("replay.hub.weights_store", "protocol.peers.weights")
    with patch.multiple(names[0], CHUNK_BYTES=CHUNK, WINDOW_BYTES=WINDOW), patch.multiple(names[1], WINDOW_BYTES=WINDOW):
        run = WeightsRun(seed)
        for _ in range(100):
            run.tick(publishes=True)
        run.bad = False
        for _ in range(100):
            run.tick(publishes=False)
        keep(run.version < 0 or run.had == [run.version] * 3, f"G5: the latest wins: {run.version}, actors have {run.had}")
