"""Ingest without its sockets: bytes and time in, bytes out. The simulator of the tests runs exactly this code.

Credit is granted when a batch is handed out, not when it is cut: a prefetched batch still counts as queued, so cutting ahead
lets no data age by a further policy version.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import msgpack

from oatmill.errors import WireError
from protocol.data.trajectory import Array, BlockSize
from protocol.security.users import ANYBODY, UnauthorisedError, User
from protocol.wire import messages
from protocol.wire.codec import Buffer, Frames
from replay.ingest.actor_session import Arrival, Session
from replay.ingest.actor_sessions import DataSessions
from replay.ingest.admissions import Admissions
from replay.ingest.batch_server import BatchServer, Turned
from replay.ingest.credit import SILENT_AFTER_S, CreditLine, Holder
from replay.ingest.fleet import FleetStatistics
from replay.ingest.recovery import recovered_part, segments_of
from replay.ingest.validation import Validator
from replay.log.journal import Journal
from replay.log.ledger import Ledger
from replay.log.marks import Mark, difference
from replay.log.state import QUEUED, Rows
from replay.plausible import check_cursor
from replay.quarantine import Refused
from replay.store.assembly import Assembler, Part
from replay.store.buffer import NO_BUFFER, BufferSettings
from replay.store.queue import Segment, TrajectoryQueue
from replay.store.replayed_share import ReplayedShare
from replay.store.snapshot_saver import BufferSaver

MAX_ACTORS_REPORTED = 1000
"""Actors whose detail is reported; the fleet's numbers hold all."""
MAX_NAMED = 20
"""Slow and silent actors that the learner is told the names of."""
QUARANTINE_KEPT = 20
"""Bad messages of which the newest are reported, and kept until `replay.quarantine` takes them."""


@dataclass(frozen=True)
class IngestSettings:
    """What ingest needs of config.yaml."""

    unroll_length: int
    batch_rows: int
    queue_batches: float
    max_policy_lag: int
    max_abs_reward: float
    buffer: BufferSettings = NO_BUFFER
    silent_after: float = SILENT_AFTER_S

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
                replay["sampling"],
                replay["priority_exponent"],
                replay["importance_exponent"],
            ),
            replay["silent_after"],
        )


class IngestCore:
    """Sessions, queue, batches and ledger.

    Args:
        settings: the run's.
        epoch: seconds since the epoch at which the monotonic clock was 0, to tell how old a trajectory is.
        journal: is told of every change; what it holds already is what a server that has died has left.
        server: a number that no other ingest process has.
        admissions: who may speak as which actor or rank; None asks nobody.
        saver: writes and restores the replay buffer's snapshots; None for none.

    Attributes:
        replayed: the part of every batch that is sampled again.
        policy_version: the newest one heard of.
        stop: whether the run is to end.
        refused: bad messages, to be taken.
        said: what is wrong with the log, to be taken.
    """

    def __init__(
        self,
        settings: IngestSettings,
        *,
        epoch: float = 0.0,
        journal: Journal | None = None,
        server: int = 0,
        admissions: Admissions | None = None,
        saver: BufferSaver | None = None,
    ) -> None:
        self._settings, self._epoch, self._asleep_s = settings, epoch, 0.0
        self.journal = Journal() if journal is None else journal
        self._credit = CreditLine(
            batch_rows=settings.batch_rows, queue_batches=settings.queue_batches, silent_after_s=settings.silent_after
        )
        self._sessions = DataSessions(settings.unroll_length, self._credit, self.journal, server, admissions)
        self._queue = TrajectoryQueue()
        self._batches = BatchServer(settings.batch_rows, admissions, priorities=settings.buffer.prioritised)
        self._ledger = Ledger()
        self._fleet = FleetStatistics()
        self._assembler: Assembler | None = None
        self.replayed = ReplayedShare(settings.buffer, settings.unroll_length, saver)
        self._validator: Validator | None = None
        self._next_batch_id = 0
        self._now = 0.0
        self._snapshots: list[tuple[bytes, messages.Snapshot, dict[str, Any], int]] = []  # answered once the log holds them
        self._quarantine: deque[str] = deque(maxlen=QUARANTINE_KEPT)
        self.refused: deque[Refused] = deque(maxlen=QUARANTINE_KEPT)
        self.said: list[str] = []
        self.policy_version = -1
        self.stop = False
        if self.journal.books.schema is not None or self.journal.books.accounts:
            self._restore()

    def _restore(self) -> None:
        """Go on where a server that has died was."""
        books = self.journal.books
        self._now = time.monotonic() if self._epoch else 0.0
        self._sessions.restore(books)
        self._batches.restore(books)
        if books.schema is not None:
            self._describe()
        totals = books.totals
        self._ledger = Ledger(
            totals.accepted, totals.trained, totals.rolled_back, totals.stale, totals.rejected, totals.replayed
        )
        self.policy_version, self._next_batch_id = books.version, books.next_batch_id
        for batch_id, cut in sorted(books.cuts.items()):
            if not self._batches.hold(cut.rank, recovered_part(batch_id, cut, books, self._now)):
                self.journal.record("returned", [batch_id])
        if books.schema is not None:
            self._enqueue(books.rows_in(QUEUED))

    def _enqueue(self, rows: Iterable[Rows], *, exempt: bool = False) -> None:
        """Put rows that lie in the log at the queue's head, in order."""
        schema = self._sessions.schema
        assert schema is not None, "rows have a schema"
        self._queue.put_back(segments_of(self.journal, schema, list(rows), self._now, exempt=exempt))

    def known(self) -> dict[str, Any]:
        """What a new hub needs to know of those that its predecessor let in."""
        books = self.journal.books
        return {
            "actors": {str(actor): [account.incarnation, account.ended] for actor, account in books.accounts.items()},
            "ranks": {str(rank): entry[1] for rank, entry in books.ranks.items()},
            "policy_version": books.version,
        }

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
        self.policy_version = self._batches.policy_version = max(self.policy_version, policy_version)
        self.stop = self._batches.stop = stop
        if members is not None:
            self._sessions.apply_members(members)

    def receive_data(self, route: bytes, header: Buffer, payload: Buffer, now: float, user: User = ANYBODY) -> None:
        """Take in one message of an actor's; a bad one is counted and the session goes on."""
        session, self._now = None, now
        try:
            arrival = self._sessions.receive(
                route, header, payload, version=self.policy_version, queued=self.queued, now=now, user=user
            )
            if arrival is not None:
                session = arrival.session
                self._store(arrival, now)
        except UnauthorisedError as error:
            self._refuse(Refused.of(error, "data", header, payload))  # and no strike: the actor that it named has done nothing
        except WireError as error:
            self._refuse(Refused.of(error, "data", header, payload))
            self._strike(session or self._sessions.session_of(route))

    def _refuse(self, message: Refused) -> None:
        self._ledger.rejected_by[message.reason] += 1
        self._quarantine.append(f"{message.reason}: {message.detail}")
        self.refused.append(message)

    def bad_frames(self, route: bytes, error: WireError, socket: str = "data") -> None:
        """Count a message that could not even be taken apart."""
        self._refuse(Refused.of(error, socket))
        self._strike(self._sessions.session_of(route))

    def _strike(self, session: Session | None) -> None:
        if session is not None and not session.ended:
            self._sessions.strike(session)

    def denied(self, connections: int, reason: str = "unknown_key") -> None:
        """Count connections that were refused because nobody trusts their key, or closed for another reason."""
        self._ledger.rejected_by[reason] += connections

    @property
    def block_bytes(self) -> int:
        """The largest block that an actor may send; 0 before the first actor."""
        return self._sessions.block_bytes

    def _store(self, arrival: Arrival, now: float) -> None:
        """Queue a block, or count it as rejected and raise; either way it is acknowledged."""
        message, rows, actor = arrival.message, arrival.message.trajectories, arrival.session.actor_id
        self._sessions.stored(arrival)
        self._ledger.accepted += rows
        counts = [message.produced, message.evicted]
        try:
            arrays = self._open(arrival)
        except WireError:
            self._ledger.rejected += rows
            arrival.session.rejected += rows
            self.journal.record("refused", actor, rows, counts)
            raise
        size = [rows, message.steps, message.finals, message.episodes]
        number = self.journal.record("stored", actor, size, message.policy_version, counts, payload=arrival.payload)
        nbytes = memoryview(arrival.payload).nbytes
        self._queue.append(Segment(arrays, 0, rows, message.policy_version, now, nbytes, record=number))
        lag = self.policy_version - message.policy_version
        self._fleet.stored(arrays, now + self._asleep_s + self._epoch - message.collected_at, lag)

    def _describe(self) -> Validator:
        """Make what needs the schema."""
        schema = self._sessions.schema
        assert schema is not None, "a session opens with a schema"
        self._assembler = Assembler(schema, self._settings.unroll_length)
        self._fleet = FleetStatistics(schema.episode_statistics)
        self._batches.schema = schema
        self.replayed.describe(schema, self._now)
        self._validator = Validator(schema.spaces.action, self._settings.max_abs_reward)
        return self._validator

    def _open(self, arrival: Arrival) -> dict[str, Array]:
        """The block's fields, checked."""
        message, schema = arrival.message, self._sessions.schema
        assert schema is not None, "a session opens with a schema"
        validator = self._validator or self._describe()
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
        validator.check(arrays)
        return arrays

    def receive_batches(self, route: bytes, header: Buffer, user: User = ANYBODY, payload: Buffer = b"") -> None:
        """Take in one message of the learner's."""
        try:
            turned = self._batches.receive(route, header, user, payload)
            check_cursor(turned.cursor, self.journal.next)
            self._apply(turned)
            for part in turned.freed:
                self._recycle(part)
        except WireError as error:
            self._refuse(Refused.of(error, "batches", header))

    def _apply(self, turned: Turned) -> None:
        self.policy_version = max(self.policy_version, turned.policy_version)
        if turned.trained:
            values = [[part.batch_id, part.rows - part.fresh_rows] for part in turned.trained]
            self.journal.record("trained", turned.policy_version, values)
        for part in turned.trained:
            self._count_trained(part, turned.policy_version)
        if turned.joined is not None:
            joined = turned.joined
            self.journal.record("joined", joined.rank, joined.token, joined.incarnation, joined.world)
        for rank in turned.left:
            self.journal.record("left", rank)
        self._take_back(turned.returned)
        if turned.rewound:  # not to be trained on again: it would lead to the same place
            self.journal.record("committed", self.journal.next)
        self._compare(turned.mark)
        if turned.resumed_from is not None:
            self._roll_back(turned.resumed_from)
        if turned.cursor is not None:
            self.journal.record("committed", turned.cursor)

    def _compare(self, mark: Mark | None) -> None:
        """Say so if the log is not the one that was there when the learner's checkpoint was written."""
        books = self.journal.books
        text = difference(mark, books.identity, list(books.marks)) if mark is not None and self.journal.durable else ""
        if text:
            self.journal.damage.append(text)
            self.said.append(text)

    def _count_trained(self, part: Part, version: int) -> None:
        self._ledger.trained += part.fresh_rows
        self._ledger.replayed += part.rows - part.fresh_rows
        self._fleet.env_steps_trained += part.env_steps
        if part.recovered:
            return
        self.replayed.trained(part, version)
        if not part.lent:
            self._recycle(part)

    def _recycle(self, part: Part) -> None:
        assert self._assembler is not None, "it made the part"
        self._assembler.recycle(part)

    def _take_back(self, parts: list[Part]) -> None:
        """Put the fresh rows of parts that were not trained on at the queue's head."""
        if not parts:
            return
        self.journal.record("returned", [part.batch_id for part in parts])
        for part in sorted(parts, key=lambda part: part.batch_id, reverse=True):
            if part.recovered:
                self._enqueue([piece.of_block for piece in part.origin])
            else:
                self._queue.put_back(part.segments())

    def _roll_back(self, resumed_from: int) -> None:
        """Take out of `trained` what the learner has forgotten: batches that gave versions after its checkpoint's."""
        books = self.journal.books
        forgotten = [entry for entry in books.consumed if entry.version > resumed_from]
        if not forgotten:
            return
        again = sorted(rows for entry in forgotten for rows in entry.kept)
        self.journal.record("rolled_back", resumed_from)
        rows = sum(entry.rows for entry in forgotten)
        self._ledger.trained -= rows
        self._ledger.rolled_back += rows - sum(stop - start for _, start, stop in again)
        self._fleet.env_steps_trained = max(0, self._fleet.env_steps_trained - sum(entry.env_steps for entry in forgotten))
        self._enqueue(again, exempt=True)
        if again:
            self.replayed.will_come_again(resumed_from)

    def slept(self, seconds: float) -> None:
        """Say how long this process was asleep so far: the times that it is given do not count that."""
        self._asleep_s = seconds

    def turn(self, now: float, *, more: bool = False) -> None:
        """Cut and hand out what can be, and write down what has happened.

        Args:
            now: seconds of the monotonic clock.
            more: whether messages wait to be read, for which the log may wait a little.
        """
        self._cut_and_hand_out(now)
        for route, snapshot in self._batches.snapshots_due():
            values = self._snapshot_values(snapshot.policy_version)
            record = self.journal.record("marked", values["cursor"], values["digest"])
            self._snapshots.append((route, snapshot, values, record))
            self.replayed.save(snapshot.learner_step, snapshot.policy_version)
            self.journal.keep_tally()
        self.journal.commit(now, more=more)
        settled = self.journal.committed == self.journal.next
        if settled:
            self._sessions.committed()
        for route, snapshot, values, record in self._snapshots:
            if record < self.journal.committed:
                self._batches.answer_snapshot(route, snapshot, values)
        self._snapshots = [entry for entry in self._snapshots if entry[3] >= self.journal.committed]
        self._cut_and_hand_out(now)
        self._now = now
        self._credit.learner_waits(self._batches.starves)
        if not more:
            self._sessions.look(now)
        self.replayed.turn(settled=settled)

    def _snapshot_values(self, version: int) -> dict[str, Any]:
        """What a checkpoint of this version says of the journal: which one, up to where, and what it comes to now."""
        books = self.journal.books
        later = (entry.number for entry in books.consumed if entry.version > version)
        digest = hashlib.blake2b(msgpack.packb(books.to_plain()), digest_size=16).hexdigest()
        return {"id": books.identity, "cursor": next(later, self.journal.next + 1), "digest": digest}

    def _cut_and_hand_out(self, now: float) -> None:
        while True:
            committed = self.journal.committed
            if self._batches.can_hand_out(committed):
                self._count_handed_out(self._batches.hand_out(self.fleet_summary(), committed=committed), now)
            if not (self._batches.wants_cut and self._cut()):
                return

    def _cut(self) -> bool:
        """Cut one batch for all ranks, with the same share of fresh rows for each; False if there are too few trajectories."""
        world = self._batches.world
        replayed = self.replayed.rows(self._batches.part_rows, world)
        fresh = self._batches.part_rows - replayed
        self._credit.expect(fresh * world)
        oldest = self.policy_version - self._settings.max_policy_lag
        stale = self._queue.drop_stale(oldest, keep=fresh * world)
        if stale:
            self._ledger.stale += sum(piece.rows for piece in stale)
            self.journal.record("dropped", [piece.of_block for piece in stale])
        if self._queue.rows < fresh * world:
            return False
        assert self._assembler is not None, "it was made with the first block"
        drawn = self.replayed.draw(replayed * world)
        parts = []
        for rank in range(world):
            pieces = [*self._queue.take(fresh), *drawn[rank * replayed : (rank + 1) * replayed]]
            shared = self._batches.shares(rank)
            parts.append(self._assembler.assemble(self._next_batch_id, pieces, shared=shared))
            self._next_batch_id += 1
        cut = [
            [part.batch_id, rank, part.env_steps, [piece.of_block for piece in part.origin if piece.fresh]]
            for rank, part in enumerate(parts)
        ]
        record = self.journal.record("cut", cut)
        for part in parts:
            part.record = record
        self._batches.add(parts)
        self._credit.cut()
        return True

    def _count_handed_out(self, parts: list[Part], now: float) -> None:
        pieces = (piece for part in parts for piece in part.origin if piece.fresh)
        self._fleet.handed_out((p.rows, max(0, self.policy_version - p.policy_version), now - p.arrived) for p in pieces)

    def outgoing_data(self) -> list[tuple[bytes, Frames]]:
        """Everything for actors, to be sent now: acknowledgements are sent for what is held only."""
        return self._sessions.outgoing(version=self.policy_version, queued=self.queued, now=self._now)

    def outgoing_batches(self) -> list[tuple[bytes, Frames]]:
        """Everything for the learner, to be sent now."""
        return self._batches.outgoing()

    def ledger(self) -> dict[str, Any]:
        """The ledger, balanced."""
        self._ledger.duplicate, self._ledger.forgotten = self._sessions.duplicates, self._sessions.forgotten
        return self._ledger.balance(self._sessions.totals, queued=self.queued, handed_out=self._batches.held_rows)

    def fleet_summary(self) -> dict[str, Any]:
        """What the learner reports beside a batch."""
        nbytes = self._queue.nbytes + self._batches.waiting_bytes
        queue = {"trajectories": self.queued, "bytes": nbytes, "capacity": self._credit.capacity}
        silent = [one for one in self._credit.silent if one.silent]
        uneven = {
            "slow_actors": named(self._credit.slow, lambda one: one.pace.seconds or 0.0),
            "silent_actors": named(silent, lambda one: self._now - one.since),
        }
        return self._fleet.summary() | {"queue": queue, "buffer": self.replayed.summary(), "ledger": self.ledger()} | uneven

    def report(self) -> dict[str, Any]:
        """Everything the hub shows: cumulative counters, windows and each actor's detail."""
        return {
            "fleet": self.fleet_summary(),
            "accepted": self._ledger.accepted - self._ledger.rejected,
            "rejected_by": self._ledger.rejected_by,
            "quarantine": list(self._quarantine),
            "credit": self._credit.outstanding + self._credit.late,
            "slow_actors": len(self._credit.slow),
            "silent_actors": len(self._credit.silent),
            "log": {
                "bytes": self.journal.nbytes,
                "stalled": self.journal.stalled,
                "commit": self.journal.seconds.to_dict(),
                "damaged": len(self.journal.damage),
                "missing": self.journal.missing,
            },
            "buffer_snapshots": self.replayed.snapshots(),
            "windows": self._fleet.quantiles(),
            "transit": self._fleet.transit.to_dict(),
            "age": self._fleet.age.to_dict(),
            "lag": self._fleet.lag.to_dict(),
            "lag_stored": self._fleet.lag_stored.to_dict(),
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
                "block_seconds": session.pace.seconds,
                "slow": session.slow,
                "silent": session.silent,
                "credit_unused_seconds": self._now - session.since if session.credit else 0.0,
            }
        return found


def named(holders: Iterable[Holder], seconds: Callable[[Session], float]) -> dict[str, float]:
    """Seconds by actor id."""
    sessions = (holder for holder in islice(holders, MAX_NAMED) if isinstance(holder, Session))
    return {str(session.actor_id): seconds(session) for session in sessions}


def epoch_of_monotonic() -> float:
    """Seconds since the epoch at which this process's monotonic clock was 0."""
    return time.time() - time.monotonic()
