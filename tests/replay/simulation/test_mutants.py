"""Faults in replay and protocol, one at a time: the simulator must detect each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from protocol.data.weights import Weights
from protocol.peers.trajectory import TrajectorySenderPeer
from protocol.peers.weights import ReceiverPeer
from replay.hub.weights_store import WeightsStore
from replay.ingest.actors.credit import CreditLine
from replay.ingest.actors.incoming import ActorMessages
from replay.ingest.actors.session import Arrival
from replay.ingest.batches.cutter import BatchCutter
from replay.ingest.batches.learner_rank import LearnerRank
from replay.ingest.batches.server import BatchServer
from replay.log.state import Ledger
from replay.store.assembly import Part
from replay.store.buffer import ReplayBuffer
from replay.store.queue import TrajectoryQueue
from tests.replay.simulation.promises import simulate
from tests.replay.simulation.weights_simulator import simulate_weights

SEEDS = 60
Plant = Callable[[pytest.MonkeyPatch], None]


def acknowledges_early(patch: pytest.MonkeyPatch) -> None:
    """A block without credit is acknowledged and not stored."""
    original = ActorMessages._data

    def mutant(self: ActorMessages, session: Any, message: Any, payload: Any, **more: Any) -> Any:
        arrival = original(self, session, message, payload, **more)
        if arrival is None and message.first == session.next:
            session.account.next += message.trajectories
        return arrival

    patch.setattr(ActorMessages, "_data", mutant)


def stores_duplicates(patch: pytest.MonkeyPatch) -> None:
    """A repeated block is stored again."""
    original = ActorMessages._data

    def mutant(self: ActorMessages, session: Any, message: Any, payload: Any, **more: Any) -> Any:
        again = message.first + message.trajectories <= session.next
        return Arrival(session, message, payload) if again else original(self, session, message, payload, **more)

    patch.setattr(ActorMessages, "_data", mutant)


def accepts_gaps(patch: pytest.MonkeyPatch) -> None:
    """A block after a gap is stored."""
    original = ActorMessages._data

    def mutant(self: ActorMessages, session: Any, message: Any, payload: Any, **more: Any) -> Any:
        session.account.next = max(session.next, message.first)
        return original(self, session, message, payload, **more)

    patch.setattr(ActorMessages, "_data", mutant)


def tells_no_gap(patch: pytest.MonkeyPatch) -> None:
    """An actor that starts again from what is missing is told that it was late, and WELCOME does not start it again."""
    original = TrajectorySenderPeer._take_word

    def mutant(self: TrajectorySenderPeer, message: Any, now: float) -> None:
        cursor = self._cursor
        original(self, message, now)
        self._cursor = max(self._cursor, min(cursor, len(self._in_flight)))

    patch.setattr(TrajectorySenderPeer, "_take_word", mutant)


MORE_ROWS = 21


def has_no_credit(patch: pytest.MonkeyPatch) -> None:
    """All actors may always send."""
    original = CreditLine.capacity
    patch.setattr(CreditLine, "capacity", property(lambda self: original.fget(self) + MORE_ROWS))  # type: ignore[attr-defined]
    patch.setattr("tests.replay.simulation.simulator.Simulation.budget", budget_as_promised)


def budget_as_promised(run: Any) -> tuple[int, int, int]:
    """The simulation's, with the capacity that there should be."""
    returned, run._returned = run._returned, 0
    credit = run.core._credit
    return credit.outstanding + credit.late + run.core.queued, credit.bound - MORE_ROWS, returned


def admits_without_credit(patch: pytest.MonkeyPatch) -> None:
    """A block without credit is stored."""
    original = CreditLine.admit

    def mutant(self: CreditLine, holder: Any, rows: int, queued: int, now: float) -> bool:
        return original(self, holder, rows, queued, now) or True

    patch.setattr(CreditLine, "admit", mutant)


def keeps_credit_of_the_dead(patch: pytest.MonkeyPatch) -> None:
    """The credit of dead actors is never free again."""
    patch.setattr(CreditLine, "take_back", lambda _self, _holder: None)


def does_not_fence(patch: pytest.MonkeyPatch) -> None:
    """Messages of older incarnations are accepted."""
    patch.setattr(ActorMessages, "_session", lambda self, _route, number, _incarnation: self.sessions.find(number))


def loses_what_a_dead_learner_had(patch: pytest.MonkeyPatch) -> None:
    """Batches of a learner that is replaced do not return."""
    original = BatchServer._end

    def mutant(self: BatchServer, numbers: Any, changes: Any) -> None:
        original(self, numbers, changes)
        changes.returned = []

    patch.setattr(BatchServer, "_end", mutant)


def trains_twice(patch: pytest.MonkeyPatch) -> None:
    """A batch that was trained on returns to the queue as well."""
    original = BatchServer._consume

    def mutant(self: BatchServer, rank: Any, batch_id: int, version: int, changes: Any) -> None:
        original(self, rank, batch_id, version, changes)
        changes.returned = list(changes.trained)

    patch.setattr(BatchServer, "_consume", mutant)


def counts_stale_once_too_often(patch: pytest.MonkeyPatch) -> None:
    """The ledger counts more stale trajectories than were dropped."""
    original = TrajectoryQueue.drop_stale
    patch.setattr(TrajectoryQueue, "drop_stale", lambda self, oldest, *, keep: 2 * original(self, oldest, keep=keep))


def forgets_what_was_rejected(patch: pytest.MonkeyPatch) -> None:
    """Trajectories in flight are counted as queued, too."""
    original = Ledger.balance
    patch.setattr(
        Ledger,
        "balance",
        lambda self, actors, *, queued, handed_out, duplicate: original(
            self, actors, queued=queued + handed_out, handed_out=handed_out, duplicate=duplicate
        ),
    )


def starves_for_young_ones(patch: pytest.MonkeyPatch) -> None:
    """All stale trajectories are dropped, even those that the next batch needs, and they are not counted."""

    def mutant(self: TrajectoryQueue, oldest_version: int, *, keep: int) -> list[Any]:
        del keep
        for segment in [segment for segment in self._waiting if segment.policy_version < oldest_version]:
            self._drop(segment, segment.rows)
        return []

    patch.setattr(TrajectoryQueue, "drop_stale", mutant)


def releases_early(patch: pytest.MonkeyPatch) -> None:
    """An actor drops everything that it has sent as soon as anything is acknowledged."""
    original = TrajectorySenderPeer._release

    def mutant(self: TrajectorySenderPeer, acknowledged: int) -> None:
        original(self, acknowledged)
        self._in_flight.clear()
        self._cursor = 0

    patch.setattr(TrajectorySenderPeer, "_release", mutant)


def forgets_a_cut_batch(patch: pytest.MonkeyPatch) -> None:
    """In a cut batch, the first rows occur twice and others are missing."""
    original = TrajectoryQueue.take
    patch.setattr(
        TrajectoryQueue,
        "take",
        lambda self, rows: [original(self, rows)[0]._replace()] * 1 if rows == 1 else doubled(original(self, rows)),
    )


def doubled(slices: list[Any]) -> list[Any]:
    """The first slice, in place of the last one of the same length."""
    same = [number for number, piece in enumerate(slices) if piece.rows == slices[0].rows]
    return [*slices[: same[-1]], slices[0], *slices[same[-1] + 1 :]]


def says_it_rolled_nothing_back(patch: pytest.MonkeyPatch) -> None:
    """Rolled-back trajectories are removed from `trained` and counted nowhere."""

    original = BatchCutter.roll_back

    def mutant(self: BatchCutter, resumed_from: int, now: float) -> None:
        counted = self._journal.state.ledger.rolled_back
        original(self, resumed_from, now)
        self._journal.state.ledger.rolled_back = counted

    patch.setattr(BatchCutter, "roll_back", mutant)


def prioritises_whoever_is_there(patch: pytest.MonkeyPatch) -> None:
    """A trajectory in a reused slot gets the priority of the old one."""
    original = ReplayBuffer.insert

    def mutant(self: ReplayBuffer, part: Part, version: int = -1) -> None:
        part.origin = [
            piece if piece.fresh else piece._replace(ticket=int(self._tickets[piece.start])) for piece in part.origin
        ]
        original(self, part, version)

    patch.setattr(ReplayBuffer, "insert", mutant)


def prioritises_the_neighbour(patch: pytest.MonkeyPatch) -> None:
    """Each row gets the priority of the row before it."""
    original = ReplayBuffer.insert

    def mutant(self: ReplayBuffer, part: Part, version: int = -1) -> None:
        part.priorities = None if part.priorities is None else np.roll(part.priorities, 1)
        original(self, part, version)

    patch.setattr(ReplayBuffer, "insert", mutant)


def draws_with_repetition(patch: pytest.MonkeyPatch) -> None:
    """A trajectory may occur twice in a batch."""
    patch.setattr("replay.store.buffer.draw", lambda chance, rows, generator: generator.integers(0, len(chance), rows))


def takes_them_for_another_batch(patch: pytest.MonkeyPatch) -> None:
    """Priorities are used for the oldest part that is held, whatever batch they belong to."""
    original = LearnerRank.take_priorities
    patch.setattr(
        LearnerRank,
        "take_priorities",
        lambda self, batch_id, payload: original(self, self.held[0].batch_id if self.held else batch_id, payload),
    )


def takes_torn_weights(patch: pytest.MonkeyPatch) -> None:
    """Digests are not checked."""
    patch.setattr(Weights, "verify", lambda _self: None)


def lets_versions_go_back(patch: pytest.MonkeyPatch) -> None:
    """An actor accepts an older version that arrives late."""
    original = ReceiverPeer._take_chunk

    def mutant(self: ReceiverPeer, chunk: Any, payload: Any, now: float) -> None:
        kept, self.version = self.version, -1
        original(self, chunk, payload, now)
        self.version = max(kept, self.version) if self._taken is None else self.version

    patch.setattr(ReceiverPeer, "_take_chunk", mutant)
    patch.setattr(ReceiverPeer, "pulling", property(lambda _self: True))


def mixes_versions(patch: pytest.MonkeyPatch) -> None:
    """Chunks of another version are appended, with the digest of the chunk."""
    original = ReceiverPeer._take_chunk

    def mutant(self: ReceiverPeer, chunk: Any, payload: Any, now: float) -> None:
        if self._head is not None and chunk.offset == self._received:
            self._head = chunk
        original(self, chunk, payload, now)

    patch.setattr(ReceiverPeer, "_take_chunk", mutant)
    patch.setattr(Weights, "verify", lambda _self: None)


def does_not_send_the_newest(patch: pytest.MonkeyPatch) -> None:
    """The hub drops requests for a newer version when there is one."""
    original = WeightsStore._replace

    def mutant(self: WeightsStore, held: Any, now: float) -> None:
        if self._newest is None or held.version % 7:
            original(self, held, now)

    patch.setattr(WeightsStore, "_replace", mutant)


TRAJECTORY_FAULTS: tuple[Plant, ...] = (
    acknowledges_early,
    stores_duplicates,
    accepts_gaps,
    tells_no_gap,
    has_no_credit,
    admits_without_credit,
    keeps_credit_of_the_dead,
    does_not_fence,
    loses_what_a_dead_learner_had,
    trains_twice,
    counts_stale_once_too_often,
    forgets_what_was_rejected,
    starves_for_young_ones,
    releases_early,
    forgets_a_cut_batch,
    says_it_rolled_nothing_back,
    prioritises_whoever_is_there,
    prioritises_the_neighbour,
    draws_with_repetition,
    takes_them_for_another_batch,
)
WEIGHT_FAULTS: tuple[Plant, ...] = (takes_torn_weights, lets_versions_go_back, mixes_versions, does_not_send_the_newest)


ROTTEN = (AttributeError, NameError, TypeError)


def caught_by(run: Callable[[int], Any], seeds: int) -> int | None:
    """Return the first seed that detects the fault, by any failure; None if none does.

    A fault that itself no longer fits the code, and so raises one of `ROTTEN`, detects nothing.
    """
    for seed in range(seeds):
        try:
            run(seed)
        except ROTTEN:
            raise
        except Exception:
            return seed
    return None


@pytest.mark.parametrize("plant", TRAJECTORY_FAULTS, ids=lambda plant: plant.__name__)
def test_the_simulator_detects_faults_in_the_data_path(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    assert caught_by(simulate, SEEDS) is not None, plant.__doc__


@pytest.mark.parametrize("plant", WEIGHT_FAULTS, ids=lambda plant: plant.__name__)
def test_the_simulator_detects_faults_in_the_weights_path(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    assert caught_by(simulate_weights, SEEDS) is not None, plant.__doc__
