"""Ingest with actors of known speed and a learner, on a network without losses.

It has its own clock, so no test waits.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from protocol.peers.batch import BatchPeer
from protocol.peers.trajectory import TrajectorySenderPeer
from replay.ingest.core import IngestCore, IngestSettings
from tests.replay.blocks import SCHEMA, block

STEPS = 2
TICK_S = 0.01
NEVER = float("inf")


@dataclass
class Worker:
    """An actor that takes `seconds` per block; NEVER for one that sends heartbeats and no blocks."""

    number: int
    rows: int
    seconds: float
    peer: TrajectorySenderPeer
    done_at: float | None = None  # when its unroll ends; None while it waits for credit
    version: int = 0  # with which it unrolls
    made: int = 0


@dataclass
class Fleet:
    """A run.

    Args:
        seconds: what each actor takes for a block.
        batch_rows: of a batch.
        rows: of a block.
        train_s: what the learner takes for a batch.
        queue_batches: that may wait.
        silent_after: as `replay.silent_after`.
        synchronous: as `actors.synchronous`.

    Attributes:
        delivered: blocks by actor that the learner was given.
        lags: by actor, the age in versions of every row when the learner was given it.
        over: the most by which credit and queue have exceeded the capacity.
    """

    seconds: Sequence[float]
    batch_rows: int = 8
    rows: int = 1
    train_s: float = 0.0
    queue_batches: float = 1.0
    silent_after: float = 30.0
    max_policy_lag: int = 10**6
    synchronous: bool = False
    batches: int = 0
    delivered: Counter[int] = field(default_factory=Counter)
    lags: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    over: int = 0

    def __post_init__(self) -> None:
        settings = IngestSettings(
            STEPS,
            self.batch_rows,
            self.queue_batches,
            self.max_policy_lag,
            1e6,
            silent_after=self.silent_after,
            synchronous=self.synchronous,
        )
        self.core, self.now, self.version = IngestCore(settings), 0.0, 0
        self.workers = [
            Worker(
                number,
                self.rows,
                seconds,
                TrajectorySenderPeer(actor_id=number, incarnation=1, schema=SCHEMA, rows=self.rows, when_full="block"),
            )
            for number, seconds in enumerate(self.seconds)
        ]
        self.learner = BatchPeer(rank=0, world=1, batch_size=self.batch_rows, token="t", incarnation=0, resumed_from=-1)
        self.trained_at: float | None = None
        self.held = -1
        self.learner.request(0)

    def restart_learner(self, *, train_s: float) -> None:
        """Replace the learner by one that takes `train_s` for a batch, and give its batch back."""
        self.train_s, self.trained_at = train_s, None
        self.learner = BatchPeer(
            rank=0, world=1, batch_size=self.batch_rows, token="u", incarnation=1, resumed_from=self.version
        )
        self.learner.request(self.version)

    def run(self, seconds: float) -> Fleet:
        """Let time pass."""
        end = self.now + seconds
        while self.now < end:
            self.now += TICK_S
            self.core.hub_says(policy_version=self.version, stop=False, members=None)
            for worker in self.workers:
                self._act(worker)
            self._learn()
            self.core.turn(self.now)
            for route, (header, payload) in self.core.outgoing_data():
                self.workers[int(route)].peer.receive(bytes(header), bytes(payload), self.now)
            for _, (header, payload) in self.core.outgoing_batches():
                self.learner.receive(bytes(header), bytes(payload), self.now)
            credit = self.core._credit
            held = credit.outstanding + credit.late + self.core.queued
            assert held <= max(credit.bound, self.over + credit.capacity)
            self.over = max(self.over, held - credit.capacity)
        return self

    def _act(self, worker: Worker) -> None:
        if worker.done_at is not None and self.now >= worker.done_at:
            content = block(worker.rows, steps=STEPS, version=worker.version, mark=float(worker.number), first=worker.made)
            worker.peer.offer(content)
            worker.made += worker.rows
            worker.done_at = None
        for header, payload in worker.peer.send(self.now):
            self.core.receive_data(str(worker.number).encode(), bytes(header), bytes(payload), self.now)
        if worker.done_at is None and worker.peer.ready:
            worker.version = max(0, worker.peer.newest_version)
            worker.done_at = self.now + worker.seconds

    def _learn(self) -> None:
        delivery = self.learner.take()
        if delivery is not None:
            batch = delivery.batch
            self.batches += 1
            for row, mark in enumerate(batch.observations[:, 0, 0].tolist()):
                self.delivered[int(mark)] += 1
                self.lags[int(mark)].append(self.version - int(batch.policy_version[row]))
            self.held, self.trained_at = batch.batch_id, self.now + self.train_s
        if self.trained_at is not None and self.now >= self.trained_at:
            self.version += 1
            self.learner.consumed(self.held, self.version, None)
            self.learner.request(self.version)
            self.trained_at = None
        for header, payload in self.learner.send(self.now):
            self.core.receive_batches(b"learner", bytes(header), payload=bytes(payload))
