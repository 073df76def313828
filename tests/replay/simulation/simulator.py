"""A run in one thread: the real state machines with a simulated network and clock that a seed determines.

The network is worse than ZeroMQ: it loses, repeats, delays and reorders single messages, and
processes that were replaced continue to send. Links are cut for seconds, in one or both directions.
A process that reconnects has another route: messages to the old one are lost, and messages from it
may arrive later.
"""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random

import numpy as np

from protocol.data.batch import Batch
from protocol.data.trajectory import Array
from protocol.peers.batch import BatchPeer
from protocol.peers.trajectory import TrajectorySenderPeer
from protocol.security.users import ANYBODY, User
from protocol.wire.codec import Buffer, Frames
from replay.ingest.batches.learner_rank import RankChanges
from replay.ingest.core import IngestCore, IngestSettings
from replay.store.buffer import BufferSettings
from replay.store.queue import QueuedRows
from tests.replay.blocks import SCHEMA, block

STEPS = 2
TICK_S = 0.1
SILENT_AFTER_S = 3.0


@dataclass
class Actor:
    """One incarnation of a simulated actor."""

    number: int
    incarnation: int
    rows: int
    peer: TrajectorySenderPeer
    unroll_s: float
    greedy: bool = False
    delay_s: float = 0.0  # from the beginning of an unroll to its block; inf for an actor that sends none
    began: float | None = None  # its unroll; None between two
    version: int = 0  # that it unrolls with
    connection: int = 0  # grows with every reconnect
    next_unroll: float = 0.0
    paused_until: float = 0.0
    made: int = 0
    dies_at: float = float("inf")
    sent: deque[Frames] = field(default_factory=lambda: deque(maxlen=6))  # lately; what is on its way when it dies

    @property
    def route(self) -> bytes:
        """Its connection, as ingest sees it."""
        return f"{self.number}/{self.incarnation}/{self.connection}".encode()

    @property
    def mark(self) -> float:
        """What its observations carry."""
        return self.number * 1000 + self.incarnation


@dataclass
class Learner:
    """One process of a simulated learner of one rank."""

    peer: BatchPeer
    number: int = 0
    slow: bool = False  # takes seconds over a batch
    step: int = 0
    batch_id: int = -1
    done_at: float | None = None
    asked: bool = False
    priorities: Array | None = None  # of the batch that it is training on


def told_of(rows: Array) -> Array:
    """The priority that the learner always tells of a trajectory, from its (mark, sequence)."""
    numbers: Array = (rows[:, 0] * 7919 + rows[:, 1] * 104_729) % 1009
    return numbers.astype(np.float32)


@dataclass
class Faults:
    """The probabilities of faults."""

    loss: float = 0.0
    repeat: float = 0.0
    delay_s: float = 0.02
    actor_death: float = 0.0  # chance of each, every tick
    actor_pause: float = 0.0
    learner_death: float = 0.0
    late: float = 0.0  # messages that arrive once more seconds later
    cut: float = 0.0  # chance of each link, every tick
    reconnect: float = 0.0
    slow_learner: float = 0.0  # chance of each learner
    greedy: float = 0.0  # chance of each actor to send more than it has credit for
    slow: float = 0.0  # chance of each actor but the first to take a hundred times as long for its blocks, for good
    silent: float = 0.0  # chance of each actor but the first to send no block at all, for good


@dataclass
class Simulation:
    """A run.

    Args:
        seed: decides everything.
        faults: how bad it gets while `run` lasts.
    """

    seed: int
    faults: Faults
    stored: dict[float, list[int]] = field(default_factory=lambda: defaultdict(list))  # by mark, sequences as they were queued
    trained: dict[float, list[int]] = field(default_factory=lambda: defaultdict(list))  # by mark, as they were trained on
    batches: int = 0

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.now = 0.0
        self.version = 0
        self._cuts: dict[tuple[str, bool], float] = {}  # by link and direction (True: to ingest), until when
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self.batch_rows = self.random.choice((2, 3, 4, 8))
        queue_batches = self.random.choice((1.0, 1.5, 3.0))
        max_lag = self.random.choice((0, 1, 1000))
        fraction = self.random.choice((0.0, 0.0, 0.5))
        eviction = self.random.choice(("fifo", "random"))
        self.taste = Random(f"sampling {self.seed}")  # its own, so that what it decides changes nothing else
        sampling, most = self.taste.choice(("uniform", "prioritised")), self.taste.choice((0, 0, 2))
        buffer = BufferSettings(fraction, 2 * self.batch_rows, 2**20, eviction, most, self.seed, sampling)
        settings = IngestSettings(STEPS, self.batch_rows, queue_batches, max_lag, 1e6, buffer, silent_after=SILENT_AFTER_S)
        self.core = IngestCore(settings)
        self._spy()
        self.members: dict[int, tuple[int, bool]] = {}
        self.heard: dict[int, float] = {}
        self._rows: dict[int, int] = {}  # of each actor's blocks; the same for all its incarnations
        self._delays: dict[int, float] = {}  # of each actor's blocks; the same for all its incarnations
        self.unfenced = 0  # trajectories of an incarnation that were stored after its successor had come
        when_full = self.random.choice(("block", "drop_oldest"))
        self.when_full = when_full
        self.actors = [self._actor(number, 1) for number in range(self.random.randint(1, 4))]
        self.zombies: list[Actor] = []  # replaced while they were hung, and going on all the same
        self.learner = self._learner(0)
        self._tokens = 0
        self._budget_before = 0
        self._returned = 0

    def _spy(self) -> None:
        """Record what the queue is given and what leaves for good, to compare with what it ought to be."""
        append, put_back, receive = self.core._queue.append, self.core._queue.put_back, self.core._batches.receive

        def recording_append(segment: QueuedRows) -> None:
            marks = segment.arrays["observations"][:, 0]
            for mark, sequence in marks.tolist():
                self.stored[mark].append(int(sequence))
                number, incarnation = divmod(int(mark), 1000)
                self.unfenced += self.core.sessions._by_actor[number].incarnation != incarnation
            append(segment)

        def recording_put_back(segments: object) -> None:
            listed: list[QueuedRows] = list(segments)  # type: ignore[call-overload]
            self._returned += sum(segment.rows for segment in listed)
            put_back(listed)

        def recording_receive(route: bytes, header: Buffer, user: User = ANYBODY, payload: Buffer = b"") -> RankChanges:
            changes = receive(route, header, user, payload)
            for part in changes.trained:
                for mark, sequence in part.arrays["observations"][: part.fresh_rows, 0].tolist():
                    self.trained[mark].append(int(sequence))
            return changes

        self.core._batches.receive = recording_receive  # type: ignore[method-assign]
        self.core._queue.append = recording_append  # type: ignore[assignment,method-assign]
        self.core._queue.put_back = recording_put_back  # type: ignore[assignment,method-assign]

    def _actor(self, number: int, incarnation: int) -> Actor:
        rows = self._rows.setdefault(number, self.random.randint(1, 5))
        self.members[number] = (incarnation, True)
        self.heard[number] = self.now
        peer = TrajectorySenderPeer(
            actor_id=number,
            incarnation=incarnation,
            schema=SCHEMA,
            rows=rows,
            when_full=self.when_full,  # type: ignore[arg-type]
            compress=number % 2 == 1,
        )
        greedy = self.random.random() < self.faults.greedy
        unroll_s = self.random.uniform(0.01, 0.5)
        return Actor(number, incarnation, rows, peer, unroll_s, greedy, self._delays.setdefault(number, self._delay()))

    def _delay(self) -> float:
        """Of an actor's blocks: none, long, or endless. The first actor, which all others need, has none."""
        kind = self.taste.random() if self._delays else 1.0
        if kind < self.faults.silent:
            return float("inf")
        return 100 * self.taste.uniform(0.01, 0.5) if kind < self.faults.silent + self.faults.slow else 0.0

    def _learner(self, number: int) -> Learner:
        resumed_from = self.random.randint(-1, self.version)
        token = f"learner {number}"
        peer = BatchPeer(
            rank=0, world=1, batch_size=self.batch_rows, token=token, incarnation=number, resumed_from=resumed_from
        )
        return Learner(peer, number, slow=self.random.random() < self.faults.slow_learner)

    # ------------------------------------------------------------------------------------------------ the network

    def _at(self, time: float, event: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._events, (time, self._order, event))

    def _carry(self, frames: Frames, arrive: Callable[[bytes, bytes], None], link: str, *, inward: bool) -> None:
        """Deliver a message never, once or twice, some time later."""
        header, payload = bytes(frames[0]), bytes(frames[1])
        if self._cuts.get((link, inward), 0.0) > self.now:
            return
        if self.random.random() < self.faults.late:
            self._at(self.now + self.random.uniform(1, 8), lambda: arrive(header, payload))
        copies = 0 if self.random.random() < self.faults.loss else 1 + (self.random.random() < self.faults.repeat)
        for _ in range(copies):
            self._at(self.now + self.random.uniform(0, self.faults.delay_s), lambda: arrive(header, payload))

    def _to_ingest(self, actor: Actor, frames: Frames) -> None:
        route = actor.route
        actor.sent.append((bytes(frames[0]), bytes(frames[1])))
        self._carry(frames, partial(self._arrive, route), f"actor {actor.number}", inward=True)

    def _to_actor(self, route: bytes, frames: Frames) -> None:
        def arrive(header: bytes, payload: bytes) -> None:
            for actor in (*self.actors, *self.zombies):
                if actor.route == route:
                    actor.peer.receive(header, payload, self.now)

        self._carry(frames, arrive, f"actor {route.split(b'/')[0].decode()}", inward=False)

    def _to_learner(self, route: bytes, frames: Frames) -> None:
        def arrive(header: bytes, payload: bytes) -> None:
            if str(self.learner.number).encode() == route:
                self.learner.peer.receive(header, payload, self.now)

        self._carry(frames, arrive, "learner", inward=False)

    def _fail_links(self) -> None:
        """Cut links, both ways or one, and let actors reconnect."""
        for link in (*(f"actor {actor.number}" for actor in self.actors), "learner"):
            if self.random.random() < self.faults.cut:
                until = self.now + self.random.uniform(0.5, 8)
                for inward in self.random.choice(((True,), (False,), (True, False))):
                    self._cuts[link, inward] = until
        for actor in self.actors:
            actor.connection += self.random.random() < self.faults.reconnect

    # ----------------------------------------------------------------------------------------------- the processes

    def _step_actor(self, actor: Actor) -> None:
        if self.now < actor.paused_until:
            return
        if actor.peer.refusal is not None:
            assert actor in self.zombies, f"a good actor was refused: {actor.peer.refusal}"
            assert actor.peer.refusal[0] == "fenced"
            self.zombies.remove(actor)
            return
        if actor.greedy:
            actor.peer._limit = max(actor.peer._limit, actor.peer._acknowledged + 4 * actor.rows)
        self._unroll(actor)
        for frames in actor.peer.send(self.now):
            self._to_ingest(actor, frames)

    def _unroll(self, actor: Actor) -> None:
        """Offer a block: a fast actor has it at once and makes the next one later, a slow one needs its time for it."""
        if actor.peer.ready and actor.began is None and self.now >= actor.next_unroll:
            actor.began, actor.version = self.now, max(0, actor.peer.newest_version)
        if actor.began is not None and self.now >= actor.began + actor.delay_s:
            actor.peer.offer(block(actor.rows, steps=STEPS, version=actor.version, mark=actor.mark, first=actor.made))
            actor.made += actor.rows
            actor.began, actor.next_unroll = None, self.now + actor.unroll_s

    def _step_learner(self) -> None:
        learner = self.learner
        delivery = learner.peer.take()
        assert learner.peer.refusal is None, f"a good learner was refused: {learner.peer.refusal}"
        if delivery is not None:
            self.check_batch(delivery.batch)
            learner.priorities = told_of(delivery.batch.observations[:, 0])
            learner.batch_id, learner.done_at = (
                delivery.batch.batch_id,
                self.now + self.random.uniform(0, 4.0 if learner.slow else 0.2),
            )
            learner.asked = False
            self.batches += 1
        if learner.done_at is not None and self.now >= learner.done_at:
            self.version += 1
            learner.peer.consumed(learner.batch_id, self.version, learner.priorities)
            learner.done_at, learner.step = None, learner.step + 1
        if learner.done_at is None and not learner.asked:
            learner.peer.request(learner.step)
            learner.asked = True
        route = str(learner.number).encode()
        for frames in learner.peer.send(self.now):
            self._carry(frames, partial(self._arrive_batches, route), "learner", inward=True)

    def _fail(self) -> None:
        """What goes wrong in this tick."""
        self._fail_links()
        for index, actor in enumerate(self.actors):
            if self.random.random() < self.faults.actor_death or self.now >= actor.dies_at:
                self._replace(index)
            elif self.random.random() < self.faults.actor_pause:
                actor.paused_until = self.now + self.random.uniform(1, 10)
        if self.random.random() < self.faults.learner_death:
            self._tokens += 1
            self.learner = self._learner(self._tokens)

    def _replace(self, index: int) -> None:
        """An actor dies, or only seems to; what it has sent arrives late, and its successor may die at once."""
        actor = self.actors[index]
        if self.random.random() < 0.5:
            self.zombies.append(actor)
        elif self.random.random() < 0.5:
            for header, payload in actor.sent:
                late = self.now + self.random.uniform(0, 2)
                self._at(late, partial(self._arrive, actor.route, bytes(header), bytes(payload)))
        self.actors[index] = self._actor(actor.number, actor.incarnation + 1)
        if self.random.random() < 0.5:
            self.actors[index].dies_at = self.now + self.random.uniform(0.2, 2)

    def _arrive(self, route: bytes, header: bytes, payload: bytes) -> None:
        self.core.receive_data(route, header, payload, self.now)

    def _arrive_batches(self, route: bytes, header: bytes, payload: bytes) -> None:
        self.core.receive_batches(route, header, payload=payload)

    def check_batch(self, batch: Batch) -> None:
        """What the learner is given: no trajectory twice, fresh rows first, and what each counts for."""
        rows = list(map(tuple, batch.observations[:, 0].tolist()))
        assert len(set(rows)) == len(rows), f"twice in one batch: {rows}"
        assert batch.importance is not None
        sampled = batch.importance[~batch.fresh]
        assert (batch.importance[batch.fresh] == 1).all()
        assert ((sampled > 0) & (sampled <= 1)).all()
        assert not len(sampled) or sampled.max() == 1

    def check_priorities(self) -> None:
        """No row of the buffer has another one's priority, however its slot was used before."""
        buffer = self.core.replayed.buffer
        for piece, past in buffer.kept(buffer.standing()) if buffer is not None else []:
            wanted = float(told_of(piece.arrays["observations"][piece.start : piece.stop, 0])[0])
            assert np.isnan(past.priority) or past.priority == wanted, f"{past.priority} instead of {wanted}"

    def calm(self) -> None:
        """Stop all faults from here on."""
        self.faults = Faults()
        self._cuts.clear()
        self.learner.slow = False
        for actor in self.actors:
            actor.paused_until, actor.greedy, actor.dies_at = 0.0, False, float("inf")

    def _hub(self) -> None:
        """Tell ingest who lives, as the hub would."""
        for actor in self.actors:
            if self.now >= actor.paused_until:
                self.heard[actor.number] = self.now
        for number, (incarnation, _) in self.members.items():
            self.members[number] = (incarnation, self.now - self.heard[number] < 5)
        self.core.hub_says(policy_version=self.version, stop=False, members=dict(self.members))

    # --------------------------------------------------------------------------------------------------- the clock

    def run(self, seconds: float, check: Callable[[Simulation], None]) -> None:
        """Let time pass; `check` is called after every tick."""
        end = self.now + seconds
        while self.now < end:
            self.now += TICK_S
            self._fail()
            self._hub()
            for actor in (*self.actors, *self.zombies):
                self._step_actor(actor)
            self._step_learner()
            while self._events and self._events[0][0] <= self.now:
                heapq.heappop(self._events)[2]()
            self.core.turn(self.now)
            for route, frames in self.core.outgoing_batches():
                self._to_learner(route, frames)
            for route, frames in self.core.outgoing_data():
                self._to_actor(route, frames)
            check(self)

    def budget(self) -> tuple[int, int, int]:
        """(credit and queue now, the most they may come to, and what has returned from the learner since the last call)."""
        returned, self._returned = self._returned, 0
        credit = self.core._credit
        return credit.outstanding + credit.late + self.core.queued, credit.bound, returned
