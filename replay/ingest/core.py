"""The state machine of ingest, without sockets: it gets bytes and the time, and returns bytes.

The tests' simulator runs this same code.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from oatmill.errors import WireError
from protocol.data.run_schema import RunSchema
from protocol.security.users import ANYBODY, User
from protocol.wire.codec import Buffer, Frames
from replay.claim_limits import check_cursor
from replay.ingest.actors.credit import SILENT_AFTER_S, CreditLine
from replay.ingest.actors.incoming import ActorMessages
from replay.ingest.actors.report import actor_details, uneven_actors
from replay.ingest.admissions import Admissions
from replay.ingest.batches.checkpoint_marks import CheckpointMarks
from replay.ingest.batches.cutter import BatchCutter
from replay.ingest.batches.learner_rank import RankChanges
from replay.ingest.batches.server import BatchServer
from replay.ingest.fleet import FleetStatistics
from replay.ingest.intake import Intake
from replay.log.journal import Journal
from replay.quarantine import BadMessage, Rejections
from replay.store.buffer import NO_BUFFER, BufferSettings
from replay.store.queue import TrajectoryQueue
from replay.store.replayed_share import ReplayedShare
from replay.store.snapshot_saver import BufferSaver

QUARANTINE_KEPT = 20
"""How many of the newest bad messages are reported, and kept until they are written to the quarantine."""


@dataclass(frozen=True)
class IngestSettings:
    """The settings that ingest needs."""

    unroll_length: int
    batch_rows: int
    queue_batches: float
    max_policy_lag: int
    max_abs_reward: float
    buffer: BufferSettings = NO_BUFFER
    silent_after: float = SILENT_AFTER_S
    synchronous: bool = False

    @staticmethod
    def of(config: Mapping[str, Any]) -> IngestSettings:
        """Build it from the content of config.yaml."""
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
            config["actors"].get("synchronous", False),  # configs before this setting
        )


class IngestCore:
    """Connects the parts of ingest: messages of actors, the queue, batches for the learner, and the log.

    Args:
        settings: the run's settings.
        epoch: the time at which the monotonic clock was 0, in seconds since the epoch. It is used
            for the age of trajectories.
        journal: records every change; what it already contains is restored.
        server: a number that no other ingest process has.
        admissions: decides which process may send messages as which actor or rank; None allows everybody.
        saver: writes and restores snapshots of the replay buffer; None saves nothing.

    Attributes:
        journal: the log, and the state that results from it.
        sessions: one session for each actor.
        rejections: the bad messages.
        marks: answers and compares the log positions that the learner's checkpoints contain.
        replayed: the part of every batch that is sampled from the replay buffer.
        policy_version: the newest known policy version.
        stop: whether the run ends.
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
        self._settings, self._epoch, self._asleep_s, self._now = settings, epoch, 0.0, 0.0
        self.policy_version, self.stop = -1, False
        self.journal = Journal() if journal is None else journal
        self.rejections = Rejections(QUARANTINE_KEPT)
        self._credit = CreditLine(
            batch_rows=settings.batch_rows,
            queue_batches=settings.queue_batches,
            silent_after_s=settings.silent_after,
            synchronous=settings.synchronous,
        )
        self._queue, self._fleet = TrajectoryQueue(), FleetStatistics()
        self._batches = BatchServer(settings.batch_rows, admissions, priorities=settings.buffer.prioritised, server=server)
        self.replayed = ReplayedShare(settings.buffer, settings.unroll_length, saver)
        self.marks = CheckpointMarks(self.journal, self._batches, self.replayed)
        self._messages = ActorMessages(settings.unroll_length, self._credit, self.journal, server, admissions)
        self.sessions = self._messages.sessions
        self._intake = Intake(
            self._messages,
            self._queue,
            self.journal,
            self._fleet,
            self.rejections,
            steps=settings.unroll_length,
            max_abs_reward=settings.max_abs_reward,
            on_schema=self._describe,
        )
        self._cutter = BatchCutter(
            self._queue,
            self.replayed,
            self._batches,
            credit=self._credit,
            journal=self.journal,
            fleet=self._fleet,
            steps=settings.unroll_length,
            max_policy_lag=settings.max_policy_lag,
        )
        if self.journal.state.schema is not None or self.journal.state.accounts:
            self._restore()

    def _restore(self) -> None:
        """Continue where an earlier server stopped."""
        self._now = time.monotonic() if self._epoch else 0.0
        self.sessions.restore()
        self._batches.restore(self.journal.state)
        if self.sessions.schema is not None:
            self._intake.describe(self.sessions.schema)
        self.policy_version = self.journal.state.version
        self._cutter.restore(self._now)

    def _describe(self, schema: RunSchema) -> None:
        """Prepare for the run's schema."""
        self._cutter.describe(schema)
        self._fleet.statistics = schema.episode_statistics
        self._batches.schema = schema
        self.replayed.describe(schema, self._now)

    def known(self) -> dict[str, Any]:
        """Return what a new hub needs to know about the processes that earlier hubs accepted."""
        state = self.journal.state
        return {
            "actors": {str(actor): [account.incarnation, account.ended] for actor, account in state.accounts.items()},
            "ranks": {str(rank): entry[1] for rank, entry in state.ranks.items()},
            "policy_version": state.version,
        }

    @property
    def queued(self) -> int:
        """The number of trajectories that wait, in the queue or in cut batches."""
        return self._queue.rows + self._batches.waiting_rows

    @property
    def _occupied(self) -> int:
        """The number of trajectories that take up room: those that wait.

        With synchronous actors also those that the learner trains on, so that a new batch begins with its weights.
        """
        return self.queued + (self._batches.held_rows if self._settings.synchronous else 0)

    def hub_says(self, *, policy_version: int, stop: bool, members: Mapping[int, tuple[int, bool]] | None) -> None:
        """Apply the hub's newest message.

        Args:
            policy_version: the newest version that the hub has.
            stop: whether the run ends.
            members: by actor id, its newest incarnation and whether it is alive; None if nothing
                has changed.
        """
        self.policy_version = self._batches.policy_version = max(self.policy_version, policy_version)
        self.stop = self._batches.stop = stop
        if members is not None:
            self.sessions.apply_members(members)

    def receive_data(self, route: bytes, header: Buffer, payload: Buffer, now: float, user: User = ANYBODY) -> None:
        """Handle one message of an actor."""
        self._now = now
        self._intake.receive(
            route,
            header,
            payload,
            version=self.policy_version,
            queued=self._occupied,
            now=now,
            wall=now + self._asleep_s + self._epoch,
            user=user,
        )

    def bad_frames(self, route: bytes, error: WireError, socket: str = "data") -> None:
        """Count a message that does not have two frames."""
        self._intake.bad_frames(route, error, socket)

    def receive_batches(self, route: bytes, header: Buffer, user: User = ANYBODY, payload: Buffer = b"") -> None:
        """Handle one message of the learner."""
        try:
            changes = self._batches.receive(route, header, user, payload)
            check_cursor(changes.cursor, self.journal.next)
            self._apply(changes)
            for part in changes.freed:
                self._cutter.recycle(part)
        except WireError as error:
            self.rejections.add(BadMessage.of(error, "batches", header))

    def _apply(self, changes: RankChanges) -> None:
        self.policy_version = max(self.policy_version, changes.policy_version)
        self._cutter.trained(changes.trained, changes.policy_version)
        if changes.joined is not None:
            joined = changes.joined
            self.journal.record("joined", joined.rank, joined.token, joined.incarnation, joined.world)
        for rank in changes.left:
            self.journal.record("left", rank)
        self._cutter.take_back(changes.returned, self._now)
        if changes.rewound:  # the learner became worse with this data, so it is not trained on again
            self.journal.record("committed", self.journal.next)
        self.marks.compare(changes.mark)
        if changes.resumed_from is not None:
            self._cutter.roll_back(changes.resumed_from, self._now)
        if changes.cursor is not None:
            self.journal.record("committed", changes.cursor)

    def slept(self, seconds: float) -> None:
        """Set for how long this process has been paused so far. The times that it gets leave out these pauses."""
        self._asleep_s = seconds

    def turn(self, now: float, *, more: bool = False) -> None:
        """Cut and hand out batches, and record what has happened.

        Args:
            now: seconds of the monotonic clock.
            more: whether more messages wait to be read; the log may then wait a little.
        """
        self._cutter.turn(self.policy_version, now, self.fleet_summary)
        self.marks.record()
        self.sessions.record_counts()
        self.journal.commit(now, more=more)
        settled = self.journal.committed == self.journal.next
        if settled:
            self._messages.committed()
        self.marks.answer()
        self._cutter.turn(self.policy_version, now, self.fleet_summary)
        self._now = now
        self._credit.learner_waits(self._batches.starves)
        if not more:
            self._messages.look(now)
        self.replayed.turn(settled=settled)

    def outgoing_data(self) -> list[tuple[bytes, Frames]]:
        """Return everything to send to actors. An acknowledgement covers only what the log contains."""
        return self._messages.outgoing(version=self.policy_version, queued=self._occupied, now=self._now)

    def outgoing_batches(self) -> list[tuple[bytes, Frames]]:
        """Return everything to send to the learner."""
        return self._batches.outgoing()

    def ledger(self) -> dict[str, Any]:
        """Return the ledger."""
        return self.journal.state.ledger.balance(
            self.sessions.totals,
            queued=self.queued,
            handed_out=self._batches.held_rows,
            duplicate=self.sessions.duplicates,
        )

    def fleet_summary(self) -> dict[str, Any]:
        """Return the statistics that the learner reports with a batch."""
        nbytes = self._queue.nbytes + self._batches.waiting_bytes
        queue = {"trajectories": self.queued, "bytes": nbytes, "capacity": self._credit.capacity}
        parts = {"queue": queue, "buffer": self.replayed.summary(), "ledger": self.ledger()}
        return self._fleet.summary() | parts | uneven_actors(self._credit, self._now)

    def report(self) -> dict[str, Any]:
        """Return everything that the hub shows: cumulative counters, windows and details of the actors."""
        ledger = self.journal.state.ledger
        return {
            "fleet": self.fleet_summary(),
            "accepted": ledger.accepted - ledger.rejected - self.sessions.forgotten,
            "rejected_by": dict(self.rejections.counts),
            "quarantine": list(self.rejections.lines),
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
            "actors": actor_details(self.sessions, self._now),
        }


def epoch_of_monotonic() -> float:
    """Return the time at which this process's monotonic clock was 0, in seconds since the epoch."""
    return time.time() - time.monotonic()
