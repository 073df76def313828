"""Cuts batches from the queue, hands them out, and puts trajectories back that were not trained on.

To cut a batch is to take its trajectories from the queue and to copy them into one part per rank.

Credit is given when a batch is handed out, not when it is cut. A batch that is cut in advance still
counts as queued, so cutting in advance does not make data older by a policy version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from protocol.data.run_schema import RunSchema
from replay.ingest.actors.credit import CreditLine
from replay.ingest.batches.server import BatchServer
from replay.ingest.fleet import FleetStatistics
from replay.ingest.requeue import queued_rows_of, recovered_part
from replay.log.journal import Journal
from replay.log.state import QUEUED, Rows
from replay.store.assembly import Assembler, Part
from replay.store.queue import TrajectoryQueue
from replay.store.replayed_share import ReplayedShare


class BatchCutter:
    """Moves trajectories between the queue and the learner.

    Args:
        queue: the fresh trajectories.
        replayed: the trajectories that can be sampled again.
        batches: hands the parts out.
        credit: gets a call for every cut.
        journal: records every change.
        fleet: counts what is handed out and trained on.
        steps: T, the length of an unroll.
        max_policy_lag: trajectories that are more policy versions behind the newest one are dropped.
    """

    def __init__(
        self,
        queue: TrajectoryQueue,
        replayed: ReplayedShare,
        batches: BatchServer,
        *,
        credit: CreditLine,
        journal: Journal,
        fleet: FleetStatistics,
        steps: int,
        max_policy_lag: int,
    ) -> None:
        self._queue, self._replayed, self._batches, self._credit = queue, replayed, batches, credit
        self._journal, self._fleet, self._steps, self._max_policy_lag = journal, fleet, steps, max_policy_lag
        self._schema: RunSchema | None = None
        self._assembler: Assembler | None = None

    def describe(self, schema: RunSchema) -> None:
        """Prepare for the run's schema."""
        self._schema, self._assembler = schema, Assembler(schema, self._steps)

    def restore(self, now: float) -> None:
        """Continue where an earlier server stopped: keep the parts that it cut, and queue the waiting rows."""
        state = self._journal.state
        for batch_id, cut in sorted(state.cuts.items()):
            if not self._batches.hold(cut.rank, recovered_part(batch_id, cut, state, now)):
                self._journal.record("returned", [batch_id])
        if state.schema is not None:
            self._enqueue(state.rows_in(QUEUED), now)

    def _enqueue(self, rows: Iterable[Rows], now: float, *, exempt: bool = False) -> None:
        """Put rows that are in the log at the front of the queue, in order."""
        assert self._schema is not None, "rows have a schema"
        self._queue.put_back(queued_rows_of(self._journal, self._schema, list(rows), now, exempt=exempt))

    def turn(self, version: int, now: float, fleet: Callable[[], dict[str, Any]]) -> None:
        """Cut and hand out as many batches as possible.

        Args:
            version: the newest policy version.
            now: seconds of the monotonic clock.
            fleet: returns the statistics that the learner reports with a batch.
        """
        while True:
            committed = self._journal.committed
            if self._batches.can_hand_out(committed):
                self._count_handed_out(self._batches.hand_out(fleet(), committed=committed), version, now)
            if not (self._batches.wants_cut and self._cut(version)):
                return

    def _cut(self, version: int) -> bool:
        """Cut one batch, with the same number of fresh rows per rank; False if there are too few trajectories."""
        world = self._batches.world
        replayed = self._replayed.rows(self._batches.part_rows, world)
        fresh = self._batches.part_rows - replayed
        self._credit.expect(fresh * world)
        stale = self._queue.drop_stale(version - self._max_policy_lag, keep=fresh * world)
        if stale:
            self._journal.record("dropped", [piece.of_block for piece in stale])
        if self._queue.rows < fresh * world:
            return False
        assert self._assembler is not None, "it was made with the first block"
        drawn = self._replayed.draw(replayed * world)
        first = self._journal.state.next_batch_id
        parts = []
        for rank in range(world):
            pieces = [*self._queue.take(fresh), *drawn[rank * replayed : (rank + 1) * replayed]]
            parts.append(self._assembler.assemble(first + rank, pieces, shared=self._batches.shares(rank)))
        cut = [
            [part.batch_id, rank, part.env_steps, [piece.of_block for piece in part.origin if piece.fresh]]
            for rank, part in enumerate(parts)
        ]
        record = self._journal.record("cut", cut)
        for part in parts:
            part.record = record
        self._batches.add(parts)
        self._credit.cut()
        return True

    def _count_handed_out(self, parts: list[Part], version: int, now: float) -> None:
        pieces = (piece for part in parts for piece in part.origin if piece.fresh)
        self._fleet.handed_out((p.rows, max(0, version - p.policy_version), now - p.arrived) for p in pieces)

    def trained(self, parts: list[Part], version: int) -> None:
        """Record parts that were trained on.

        Args:
            parts: the parts.
            version: the policy version after this training.
        """
        if parts:
            self._journal.record("trained", version, [[part.batch_id, part.rows - part.fresh_rows] for part in parts])
        for part in parts:
            self._fleet.env_steps_trained += part.env_steps
            if not part.recovered:
                self._replayed.trained(part, version)
                if not part.lent:
                    self.recycle(part)

    def recycle(self, part: Part) -> None:
        """Reuse a part's memory."""
        assert self._assembler is not None, "it made the part"
        self._assembler.recycle(part)

    def take_back(self, parts: list[Part], now: float) -> None:
        """Put the fresh rows of parts that were not trained on at the front of the queue."""
        if not parts:
            return
        self._journal.record("returned", [part.batch_id for part in parts])
        for part in sorted(parts, key=lambda part: part.batch_id, reverse=True):
            if part.recovered:
                self._enqueue([piece.of_block for piece in part.origin], now)
            else:
                self._queue.put_back(part.queued_rows())

    def roll_back(self, resumed_from: int, now: float) -> None:
        """Undo the training that the learner has lost.

        Args:
            resumed_from: the policy version of the learner's checkpoint. Batches that led to later
                versions are lost.
            now: seconds of the monotonic clock.
        """
        forgotten = [entry for entry in self._journal.state.trained_parts if entry.version > resumed_from]
        if not forgotten:
            return
        again = sorted(rows for entry in forgotten for rows in entry.kept)
        self._journal.record("rolled_back", resumed_from)
        self._fleet.env_steps_trained = max(0, self._fleet.env_steps_trained - sum(entry.env_steps for entry in forgotten))
        self._enqueue(again, now, exempt=True)
        if again:
            self._replayed.will_come_again(resumed_from)
