"""Ingest without its sockets: bytes and time in, bytes out. The simulator of the tests runs exactly this code.

Credit is granted when a batch is handed out, not when it is cut: a prefetched batch still counts as queued, so cutting ahead
lets no data age by a further policy version.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from protocol.codec import Buffer, Frames
from protocol.errors import WireError
from protocol.trajectory import Array, BlockSize
from replay.assembly import Assembler, Part
from replay.batches import BatchServer, Turned
from replay.buffer import NO_BUFFER, BufferSettings, ReplayBuffer, replayed_rows
from replay.credit import CreditLine
from replay.fleet import FleetStatistics
from replay.ledger import Ledger
from replay.queue import Segment, TrajectoryQueue
from replay.session import Arrival
from replay.sessions import DataSessions
from replay.validation import Validator

MAX_ACTORS_REPORTED = 1000
"""Actors whose detail is reported; the fleet's numbers hold all."""
QUARANTINE_KEPT = 20
"""Bad messages whose reason is kept to be looked at, the newest."""


@dataclass(frozen=True)
class IngestSettings:
    """What ingest needs of config.yaml."""

    unroll_length: int
    batch_rows: int
    queue_batches: float
    max_policy_lag: int
    max_abs_reward: float
    buffer: BufferSettings = NO_BUFFER

    @staticmethod
    def of(config: Mapping[str, Any]) -> IngestSettings:
        """From the roots of config.yaml."""
        replay = config["replay"]
        return IngestSettings(
            config["actors"]["unroll_length"],
            config["trainer"]["batch_size"],
            replay["queue_batches"],
            replay["max_policy_lag"],
            replay["max_abs_reward"],
            BufferSettings(
                replay["fraction"],
                replay["buffer_size"],
                replay["buffer_bytes"],
                replay["eviction"],
                replay["max_times_sampled"] or 0,
                config["trainer"]["seed"],
            ),
        )


class IngestCore:
    """Sessions, queue, batches and ledger.

    Args:
        settings: the run's.
        epoch: seconds since the epoch at which the monotonic clock was 0, to tell how old a trajectory is.

    Attributes:
        policy_version: the newest one heard of.
        stop: whether the run is to end.
    """

    def __init__(self, settings: IngestSettings, *, epoch: float = 0.0) -> None:
        self._settings, self._epoch = settings, epoch
        self._credit = CreditLine(batch_rows=settings.batch_rows, queue_batches=settings.queue_batches)
        self._sessions = DataSessions(settings.unroll_length, self._credit)
        self._queue = TrajectoryQueue()
        self._batches = BatchServer(settings.batch_rows)
        self._ledger = Ledger()
        self._fleet = FleetStatistics()
        self._assembler: Assembler | None = None
        self._buffer: ReplayBuffer | None = None
        self._validator: Validator | None = None
        self._next_batch_id = 0
        self._quarantine: deque[str] = deque(maxlen=QUARANTINE_KEPT)
        self.policy_version = -1
        self.stop = False

    @property
    def queued(self) -> int:
        """Trajectories that wait, cut or not."""
        return self._queue.rows + self._batches.waiting_rows

    def hub_says(self, *, policy_version: int, stop: bool, members: Mapping[int, tuple[int, bool]] | None) -> None:
        """Take in the hub's last word.

        Args:
            policy_version: the newest version that the hub holds.
            stop: whether the run is to end.
            members: by actor id its newest incarnation and whether it lives; None if nothing has changed.
        """
        self.policy_version = max(self.policy_version, policy_version)
        self.stop = self._batches.stop = stop
        if members is not None:
            self._sessions.apply_members(members)

    def receive_data(self, route: bytes, header: Buffer, payload: Buffer, now: float) -> None:
        """Take in one message of an actor's; a bad one is counted and the session goes on."""
        session = None
        try:
            arrival = self._sessions.receive(route, header, payload, version=self.policy_version, queued=self.queued, now=now)
            if arrival is not None:
                session = arrival.session
                self._store(arrival, now)
        except WireError as error:
            self._refuse(error)
            session = session or self._sessions.session_of(route)
            if session is not None and not session.ended:
                self._sessions.strike(session)

    def _refuse(self, error: WireError) -> None:
        self._ledger.rejected_by[error.reason] += 1
        self._quarantine.append(str(error))

    def bad_frames(self, error: WireError) -> None:
        """Count a message that could not even be taken apart."""
        self._refuse(error)

    def _store(self, arrival: Arrival, now: float) -> None:
        """Queue a block, or count it as rejected and raise; either way it is acknowledged."""
        rows = arrival.message.trajectories
        self._sessions.stored(arrival)
        self._ledger.accepted += rows
        try:
            arrays = self._open(arrival)
        except WireError:
            self._ledger.rejected += rows
            arrival.session.rejected += rows
            raise
        nbytes = memoryview(arrival.payload).nbytes
        self._queue.append(Segment(arrays, 0, rows, arrival.message.policy_version, now, nbytes))
        self._fleet.stored(arrays, now + self._epoch - arrival.message.collected_at)

    def _open(self, arrival: Arrival) -> dict[str, Array]:
        """The block's fields, checked."""
        message, schema = arrival.message, self._sessions.schema
        assert schema is not None, "a session opens with a schema"
        if self._validator is None:
            self._validator = Validator(schema.spaces.action, self._settings.max_abs_reward)
            self._assembler = Assembler(schema, self._settings.unroll_length)
            self._fleet = FleetStatistics(schema.episode_statistics)
            self._batches.schema = schema
            if self._settings.buffer.fraction:
                self._buffer = ReplayBuffer(schema, self._settings.unroll_length, self._settings.buffer)
        if message.schema_id != schema.identity:
            raise WireError("schema", f"expected schema {schema.identity}, got {message.schema_id[:40]!r}")
        if message.steps != self._settings.unroll_length:
            raise WireError("unroll_length", f"expected {self._settings.unroll_length} steps, got {message.steps}")
        if not 0 <= message.policy_version <= self.policy_version:
            raise WireError("version_range", f"expected 0 to {self.policy_version}, got {message.policy_version}")
        ends = message.trajectories * message.steps
        if not (0 <= message.finals <= ends and 0 <= message.episodes <= ends):
            raise WireError("final_index", f"expected at most {ends} ends, got {message.finals} and {message.episodes}")
        try:
            size = BlockSize(message.trajectories, message.steps, message.finals, message.episodes)
            arrays = schema.trajectory.views(arrival.payload, size)
        except ValueError as error:
            raise WireError("payload_length", str(error)) from None
        self._validator.check(arrays)
        return arrays

    def receive_batches(self, route: bytes, header: Buffer) -> None:
        """Take in one message of the learner's."""
        try:
            self._apply(self._batches.receive(route, header))
        except WireError as error:
            self._refuse(error)

    def _apply(self, turned: Turned) -> None:
        self.policy_version = max(self.policy_version, turned.policy_version)
        for part in turned.trained:
            self._ledger.trained += part.fresh_rows
            self._ledger.replayed += part.rows - part.fresh_rows
            self._fleet.env_steps_trained += part.env_steps
            if self._buffer is not None:
                self._buffer.insert(part)
            assert self._assembler is not None, "it made the part"
            self._assembler.recycle(part)
        self._queue.put_back(segment for part in turned.returned for segment in part.segments())

    def turn(self, now: float) -> None:
        """Cut and hand out what can be."""
        while True:
            if self._batches.can_hand_out:
                self._count_handed_out(self._batches.hand_out(self.fleet_summary()), now)
            if not (self._batches.wants_cut and self._cut()):
                return

    def _cut(self) -> bool:
        """Cut one batch for all ranks, with the same share of fresh rows for each; False if there are too few trajectories."""
        world = self._batches.world
        replayed = self._replayed_rows()
        fresh = self._batches.part_rows - replayed
        self._credit.expect(fresh * world)
        oldest = self.policy_version - self._settings.max_policy_lag
        self._ledger.stale += self._queue.drop_stale(oldest, keep=fresh * world)
        if self._queue.rows < fresh * world:
            return False
        assert self._assembler is not None, "it was made with the first block"
        drawn = self._buffer.sample(replayed * world) if self._buffer is not None and replayed else []
        parts = []
        for rank in range(world):
            pieces = [*self._queue.take(fresh), *drawn[rank * replayed : (rank + 1) * replayed]]
            parts.append(self._assembler.assemble(self._next_batch_id, pieces))
            self._next_batch_id += 1
        self._batches.add(parts)
        return True

    def _replayed_rows(self) -> int:
        """How many rows of a rank's part come from the buffer: none until it holds as many as a batch takes."""
        rows = replayed_rows(self._settings.buffer.fraction, self._batches.part_rows)
        return rows if self._buffer is not None and self._buffer.rows >= rows * self._batches.world else 0

    def _count_handed_out(self, parts: list[Part], now: float) -> None:
        pieces = (piece for part in parts for piece in part.origin if piece.fresh)
        self._fleet.handed_out((p.rows, max(0, self.policy_version - p.policy_version), now - p.arrived) for p in pieces)

    def outgoing_data(self) -> list[tuple[bytes, Frames]]:
        """Everything for actors, to be sent now: acknowledgements are sent for what is held only."""
        return self._sessions.outgoing(version=self.policy_version, queued=self.queued)

    def outgoing_batches(self) -> list[tuple[bytes, Frames]]:
        """Everything for the learner, to be sent now."""
        return self._batches.outgoing()

    def ledger(self) -> dict[str, Any]:
        """The ledger, balanced."""
        self._ledger.duplicate = self._sessions.duplicates
        return self._ledger.balance(self._sessions.totals, queued=self.queued, handed_out=self._batches.held_rows)

    def fleet_summary(self) -> dict[str, Any]:
        """What the learner reports beside a batch."""
        queue = {"trajectories": self.queued, "bytes": self._queue.nbytes, "capacity": self._credit.capacity}
        return self._fleet.summary() | {"queue": queue, "buffer": self._buffer_summary(), "ledger": self.ledger()}

    def _buffer_summary(self) -> dict[str, int]:
        """The same of the buffer; zeros without one."""
        if self._buffer is None:
            return {"trajectories": 0, "bytes": 0, "capacity": 0}
        return {"trajectories": self._buffer.rows, "bytes": self._buffer.nbytes, "capacity": self._buffer.capacity}

    def report(self) -> dict[str, Any]:
        """Everything the hub shows: cumulative counters, windows and each actor's detail."""
        return {
            "fleet": self.fleet_summary(),
            "accepted": self._ledger.accepted - self._ledger.rejected,
            "rejected_by": self._ledger.rejected_by,
            "quarantine": list(self._quarantine),
            "credit": self._credit.outstanding,
            "windows": self._fleet.quantiles(),
            "transit": self._fleet.transit.to_dict(),
            "age": self._fleet.age.to_dict(),
            "lag": self._fleet.lag.to_dict(),
            "actors": self._actors(),
        }

    def _actors(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for session in self._sessions:
            if len(found) == MAX_ACTORS_REPORTED:
                break
            found[str(session.actor_id)] = {
                "incarnation": session.incarnation,
                "produced": session.produced,
                "accepted": session.next,
                "evicted": session.evicted,
                "rejected": session.rejected,
                "credit": session.credit,
                "ended": session.ended,
            }
        return found


def epoch_of_monotonic() -> float:
    """Seconds since the epoch at which this process's monotonic clock was 0."""
    return time.time() - time.monotonic()
