"""The state that results from the log's records: actors' counts, what waits or is held, the ledger.

Every change is one record: a name and plain values. The same records are applied while the server
runs and when it reads its log after a crash, so both lead to the same state. A trajectory is
identified by its block's record number and its row.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from itertools import groupby
from typing import Any

from replay.log.marks import KEPT

QUEUED, CUT, TRAINED, GONE = range(4)
"""The place of a row: it waits; it is cut into a batch; it was trained on and is kept in case the
learner loses the training; nowhere."""
TRAINED_KEPT = 100_000
"""The number of trained batches that are remembered in case a learner goes back to its checkpoint:
far more than there are between two checkpoints."""

Rows = tuple[int, int, int]
"""Rows of one block: its record number, the first row, one past the last row."""


@dataclass(slots=True)
class ActorAccount:
    """The log's account of one actor's newest incarnation."""

    incarnation: int
    rows: int  # the number of trajectories in each block
    next: int = 0  # the first sequence number that is not stored
    produced: int = 0
    evicted: int = 0
    rejected: int = 0
    strikes: int = 0
    ended: bool = False

    @property
    def missing(self) -> int:
        """The number of trajectories that it produced, did not drop, and that are not stored."""
        return max(0, self.produced - self.evicted - self.next)

    def report(self, produced: int, evicted: int) -> None:
        """Update the cumulative counts."""
        self.evicted = max(self.evicted, evicted)
        self.produced = max(self.produced, produced, self.next + self.evicted)


@dataclass(slots=True)
class Block:
    """A stored block, as long as one of its rows is needed."""

    actor: int
    steps: int
    finals: int
    episodes: int
    version: int
    rows: bytearray  # the place of each row

    def mark(self, start: int, stop: int, where: int) -> None:
        """Set the place of rows."""
        self.rows[start:stop] = bytes([where]) * (stop - start)


@dataclass(slots=True)
class CutPart:
    """One rank's part of a batch, handed out or not."""

    rank: int
    env_steps: int
    fresh: list[Rows]  # without rows from the replay buffer


@dataclass(slots=True)
class TrainedPart:
    """One rank's part of a batch that was trained on."""

    version: int  # the policy version after it
    rows: int  # the number of fresh rows
    env_steps: int
    number: int  # the number of its record
    kept: list[Rows]  # rows whose payloads are kept


@dataclass
class Ledger:
    """The counts of all trajectories, by outcome.

    A trajectory that was acknowledged is in one of the other columns, or lost.

    `produced = trained + dropped + queued + in_flight + unsent_at_death + lost` is always true.
    """

    accepted: int = 0  # acknowledged, including rejected and forgotten ones
    trained: int = 0  # without rolled_back
    rolled_back: int = 0  # trained on after the checkpoint that a later learner resumed from
    stale: int = 0
    rejected: int = 0
    replayed: int = 0  # trained on again, from the replay buffer; not in the sum
    past_produced: int = 0  # of incarnations that were replaced; the same for the next two
    past_evicted: int = 0
    past_unsent: int = 0

    def balance(self, actors: ActorTotals, *, queued: int, handed_out: int, duplicate: int) -> dict[str, Any]:
        """Return the ledger as it is printed at the end of every run.

        Args:
            actors: the sums of the actors' reports.
            queued: the number of trajectories that wait, cut or not.
            handed_out: the number of trajectories that the learner has and has not trained on.
            duplicate: the number of trajectories that arrived again and were dropped; not in the
                sum.

        Returns:
            The columns of the equation above. `lost` is what was acknowledged and is in no other
                column: 0 unless the server died.
        """
        gone = self.trained + self.rolled_back + self.stale + self.rejected + queued + handed_out
        return {
            "produced": actors.produced,
            "trained": self.trained,
            "dropped": {
                "stale": self.stale,
                "evicted": actors.evicted,
                "rejected": self.rejected,
                "rolled_back": self.rolled_back,
            },
            "queued": queued,
            "in_flight": handed_out + actors.on_the_way,
            "unsent_at_death": actors.unsent_at_death,
            "lost": self.accepted - gone,
            "duplicate": duplicate,
            "replayed": self.replayed,
        }


@dataclass(frozen=True)
class ActorTotals:
    """Sums over all actors and incarnations, as last reported."""

    produced: int
    evicted: int
    on_the_way: int  # produced by actors that live, not dropped, and not stored yet
    unsent_at_death: int  # the same for actors that are gone


@dataclass
class LogState:
    """The state that must outlive the server's process.

    Args:
        keep_trained: whether payloads of trained data are kept until a checkpoint contains the
            training.
    """

    keep_trained: bool = False
    identity: str = ""  # the log's id
    schema: dict[str, Any] | None = None
    steps: int = 0  # T
    ledger: Ledger = field(default_factory=Ledger)
    accounts: dict[int, ActorAccount] = field(default_factory=dict)
    blocks: dict[int, Block] = field(default_factory=dict)  # by record number, increasing
    cuts: dict[int, CutPart] = field(default_factory=dict)  # by batch id, increasing
    trained_parts: deque[TrainedPart] = field(default_factory=lambda: deque(maxlen=TRAINED_KEPT))
    ranks: dict[int, list[Any]] = field(default_factory=dict)  # by rank: [token, incarnation, whether it has left]
    world: int = 0
    version: int = -1
    next_batch_id: int = 0
    marks: deque[list[Any]] = field(default_factory=lambda: deque(maxlen=KEPT))  # [cursor, digest] given for checkpoints

    def apply(self, number: int, name: str, values: Sequence[Any]) -> None:
        """Apply one record."""
        change: Callable[..., None] = getattr(self, f"_{name}")
        change(number, *values)

    # ---------------------------------------------------------------------------------------------- the records

    def _began(self, _number: int, identity: str, steps: int) -> None:
        """The log was started."""
        self.identity, self.steps = identity, steps

    def _described(self, _number: int, schema: dict[str, Any]) -> None:
        """The first actor has sent the schema."""
        self.schema = schema

    def _opened(self, _number: int, actor: int, incarnation: int, rows: int) -> None:
        """An incarnation has sent HELLO. The one before it is replaced."""
        former = self.accounts.get(actor)
        if former is not None:
            self.ledger.past_produced += former.produced
            self.ledger.past_evicted += former.evicted
            self.ledger.past_unsent += former.missing
        self.accounts[actor] = ActorAccount(incarnation, rows)

    def _reported(self, _number: int, actor: int, produced: int, evicted: int) -> None:
        """An actor has sent its counts."""
        self.accounts[actor].report(produced, evicted)

    def _ended(self, _number: int, actor: int, strikes: int) -> None:
        """An actor has left or was rejected."""
        self.accounts[actor].ended, self.accounts[actor].strikes = True, strikes

    def _forgot(self, _number: int, actor: int, upto: int) -> None:
        """An actor had more acknowledgements than are known here."""
        account = self.accounts[actor]
        self.ledger.accepted += upto - account.next
        account.next = upto
        account.report(0, 0)

    def _stored(
        self,
        number: int,
        actor: int,
        size: list[int],
        version: int,
        counts: list[int],
    ) -> None:
        """A block of [rows, steps, finals, episodes] was queued. The record's payload is the block's."""
        rows, steps, finals, episodes = size
        self._advance(actor, rows, counts)
        self.version = max(self.version, version)
        self.blocks[number] = Block(actor, steps, finals, episodes, version, bytearray(rows))

    def _refused(self, _number: int, actor: int, rows: int, counts: list[int]) -> None:
        """A block was bad: it was acknowledged and dropped."""
        self._advance(actor, rows, counts)
        self.ledger.rejected += rows
        self.accounts[actor].rejected += rows

    def _advance(self, actor: int, rows: int, counts: list[int]) -> None:
        account = self.accounts[actor]
        account.next += rows
        account.report(*counts)
        self.ledger.accepted += rows

    def _cut(self, _number: int, parts: list[list[Any]]) -> None:
        """Batches were cut: [batch id, rank, env steps, fresh rows] of each part."""
        for batch_id, rank, env_steps, fresh in parts:
            self.cuts[batch_id] = CutPart(rank, env_steps, [(record, start, stop) for record, start, stop in fresh])
            self._mark(fresh, CUT)
            self.next_batch_id = max(self.next_batch_id, batch_id + 1)

    def _returned(self, _number: int, batch_ids: list[int]) -> None:
        """Parts were not trained on: their fresh rows wait again."""
        for batch_id in batch_ids:
            self._mark(self.cuts.pop(batch_id).fresh, QUEUED)

    def _trained(self, number: int, version: int, parts: list[list[int]]) -> None:
        """Parts were trained on: [batch id, replayed rows] of each."""
        self.version = max(self.version, version)
        for batch_id, replayed in parts:
            part = self.cuts.pop(batch_id)
            rows = sum(stop - start for _, start, stop in part.fresh)
            kept = part.fresh if self.keep_trained else []
            self._mark(part.fresh, TRAINED if self.keep_trained else GONE)
            if len(self.trained_parts) == TRAINED_KEPT:
                self._mark(self.trained_parts[0].kept, GONE)
            self.trained_parts.append(TrainedPart(version, rows, part.env_steps, number, kept))
            self.ledger.trained += rows
            self.ledger.replayed += replayed

    def _dropped(self, _number: int, rows: list[Rows]) -> None:
        """Rows were too old to be trained on."""
        self._mark(rows, GONE)
        self.ledger.stale += sum(stop - start for _, start, stop in rows)

    def _vanished(self, _number: int, rows: list[Rows]) -> None:
        """Rows wait, but their payloads are gone: they are lost."""
        self._mark(rows, GONE)

    def _joined(self, _number: int, rank: int, token: str, incarnation: int, world: int) -> None:
        """A rank of the learner has joined."""
        self.ranks = {number: entry for number, entry in self.ranks.items() if number < world}
        self.ranks[rank], self.world = [token, incarnation, False], world

    def _left(self, _number: int, rank: int) -> None:
        """A rank has sent BYE."""
        self.ranks[rank][2] = True

    def _rolled_back(self, _number: int, resumed_from: int) -> None:
        """A learner resumes from an older version: the training after it is lost."""
        while self.trained_parts and self.trained_parts[-1].version > resumed_from:
            entry = self.trained_parts.pop()
            self.ledger.trained -= entry.rows
            again = sum(stop - start for _, start, stop in entry.kept)
            self._mark(entry.kept, QUEUED)
            self.ledger.rolled_back += entry.rows - again

    def _marked(self, _number: int, cursor: int, digest: str) -> None:
        """A learner got a point for a checkpoint."""
        self.marks.append([cursor, digest])

    def _committed(self, _number: int, cursor: int) -> None:
        """A checkpoint contains everything that was trained on before the cursor."""
        for entry in self.trained_parts:
            if entry.number >= cursor:
                break
            if entry.kept:
                self._mark(entry.kept, GONE)
                entry.kept = []

    def lose_part(self, batch_id: int) -> None:
        """Count a part that was handed out as lost."""
        self._mark(self.cuts.pop(batch_id).fresh, GONE)

    def _mark(self, rows: Iterable[Sequence[int]], where: int) -> None:
        for number, start, stop in rows:
            block = self.blocks[number]
            block.mark(start, stop, where)
            if where == GONE and block.rows.count(GONE) == len(block.rows):
                del self.blocks[number]

    # ------------------------------------------------------------------------------------------------ questions

    def rows_in(self, where: int) -> Iterator[Rows]:
        """Yield the rows that are in a place, in the order in which they arrived."""
        for number in sorted(self.blocks):
            for place, run in groupby(enumerate(self.blocks[number].rows), key=lambda pair: pair[1]):
                if place == where:
                    indices = [index for index, _ in run]
                    yield number, indices[0], indices[-1] + 1

    @property
    def oldest_kept(self) -> TrainedPart | None:
        """The oldest trained part whose payloads are kept."""
        return next((entry for entry in self.trained_parts if entry.kept), None)

    # -------------------------------------------------------------------------------------------------- a record of it

    def to_plain(self) -> dict[str, Any]:
        """Return plain values that `load` reads."""
        return {
            "identity": self.identity,
            "schema": self.schema,
            "steps": self.steps,
            "totals": _values(self.ledger),
            "accounts": [[actor, *_values(account)] for actor, account in self.accounts.items()],
            "blocks": [[number, *_values(block)] for number, block in self.blocks.items()],
            "cuts": [[batch_id, *_values(part)] for batch_id, part in self.cuts.items()],
            "consumed": [_values(entry) for entry in self.trained_parts],
            "ranks": [[rank, *entry] for rank, entry in self.ranks.items()],
            "world": self.world,
            "version": self.version,
            "next_batch_id": self.next_batch_id,
            "marks": list(self.marks),
        }

    def load(self, plain: dict[str, Any]) -> None:
        """Restore the state from the result of `to_plain`."""
        for name in ("identity", "schema", "steps", "world", "version", "next_batch_id"):
            setattr(self, name, plain[name])
        self.marks = deque(map(list, plain.get("marks", [])), maxlen=KEPT)  # a log in the old format has none
        self.ledger = Ledger(*plain["totals"])
        self.accounts = {actor: ActorAccount(*rest) for actor, *rest in plain["accounts"]}
        self.blocks = {number: _block(values) for number, *values in plain["blocks"]}
        self.cuts = {batch_id: CutPart(rank, env_steps, _rows(fresh)) for batch_id, rank, env_steps, fresh in plain["cuts"]}
        self.trained_parts = deque(map(_trained_part, plain["consumed"]), maxlen=TRAINED_KEPT)
        self.ranks = {rank: list(entry) for rank, *entry in plain["ranks"]}


def _values(record: Any) -> list[Any]:
    """Return a dataclass's fields in order."""
    values = (getattr(record, entry.name) for entry in fields(record))
    return [bytes(value) if isinstance(value, bytearray) else value for value in values]


def _block(values: list[Any]) -> Block:
    actor, steps, finals, episodes, version, rows = values
    return Block(actor, steps, finals, episodes, version, bytearray(rows))


def _trained_part(values: list[Any]) -> TrainedPart:
    version, rows, env_steps, number, kept = values
    return TrainedPart(version, rows, env_steps, number, _rows(kept))


def _rows(plain: Iterable[Sequence[int]]) -> list[Rows]:
    return [(record, start, stop) for record, start, stop in plain]
