"""A simulated run whose server also dies, with a log on a disk that loses unsynced data, and a learner with checkpoints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

from protocol.data.run_schema import RunSchema
from protocol.data.trajectory import Array
from protocol.peers.batch import BatchPeer
from protocol.wire.codec import Frames
from replay.ingest.core import IngestCore
from replay.log.journal import Journal, read_into
from replay.log.segments import SegmentLog
from replay.log.state import LogState
from replay.store.assembly import Assembler
from replay.store.buffer import ReplayBuffer, RowHistory
from replay.store.snapshot_saver import BufferSaver
from tests.replay.log.fake_disk import FakeDisk
from tests.replay.simulation.simulator import STEPS, Actor, Faults, Learner, Simulation


@dataclass
class ServerFaults(Faults):
    """The probabilities of faults."""

    server_death: float = 0.0
    host_death: float = 0.0  # the same, and what was not synced is gone
    disk_full: float = 0.0


class MemorySaver(BufferSaver):
    """Snapshots that are written at once and survive the server."""

    def __init__(self) -> None:
        super().__init__(Path("nowhere"))
        self.saved: list[tuple[dict[str, Array], RowHistory]] = []
        self.restored = 0

    def begin_anew(self) -> None:
        """Another process."""
        self._asked = self._due = None

    def turn(self, buffer: ReplayBuffer, schema: RunSchema, steps: int, *, may_begin: bool = True) -> None:
        if self._due is not None and may_begin:
            self._due = None
            assembler, kept = Assembler(schema, steps), buffer.kept(buffer.standing())
            self.saved = [(assembler.assemble(0, [piece]).arrays, past) for piece, past in kept]

    def restore(self, buffer: ReplayBuffer, schema: RunSchema, steps: int, *, most_sampled: int, now: float) -> None:
        del schema, steps
        for arrays, past in self.saved:
            if not most_sampled or past.sampled < most_sampled:
                buffer.put(arrays, 0, past, now)
                self.restored += 1


@dataclass
class CrashingSimulation(Simulation):
    """A run.

    Args:
        durable: replay.acknowledge.
        again: replay.on_learner_restart=replay.
    """

    durable: bool = True
    again: bool = False
    life: int = 0
    crashes: int = 0
    surviving: list[tuple[int, list[tuple[float, int]]]] = field(default_factory=list)  # version, rows that gave it
    acknowledged: dict[tuple[int, int], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.disk, self.checkpoint, self.asked_mark, self.full_until = FakeDisk(), -1, -1, 0.0
        self.saver = MemorySaver()
        self.batch: list[tuple[float, int]] = []
        self._outlives = False
        super().__post_init__()
        self.settings = self.core._settings
        self.start_server()

    def _spy(self) -> None:
        """Truth is kept where it happens, at actors and learners."""

    def open_journal(self) -> Journal:
        """What the server reads when it starts."""
        return Journal.open(
            self.disk, durable=self.durable, keep_trained=self.again, steps=STEPS, kept_bytes=10**6, segment_bytes=4000
        )

    def start_server(self) -> None:
        """A new process, whose connections are new."""
        self.life += 1
        self.saver.begin_anew()
        self.core = IngestCore(self.settings, journal=self.open_journal(), server=self.life, saver=self.saver)

    def _at(self, time: float, event: Callable[[], None]) -> None:
        life, outlives = self.life, self._outlives
        super()._at(time, lambda: event() if outlives or self.life == life else None)

    def _carry(self, frames: Frames, arrive: Callable[[bytes, bytes], None], link: str, *, inward: bool) -> None:
        """What a server has said to the learner may come after its death; what it has not heard may reach its successor."""
        self._outlives = link == "learner"
        super()._carry(frames, arrive, link, inward=inward)
        self._outlives = False

    def _fail(self) -> None:
        super()._fail()
        faults = self.faults
        assert isinstance(faults, ServerFaults)
        dies, host = self.random.random() < faults.server_death, self.random.random() < faults.host_death
        if self.random.random() < faults.disk_full:
            self.full_until = self.now + self.random.uniform(0, 3)
        self.disk.room = self.random.randint(0, 200) if self.now < self.full_until else None
        if dies or host:
            self.crashes += 1
            if host:
                self.disk.crash(self.random)
            self.disk.room = None
            self.start_server()

    def _learner(self, number: int) -> Learner:
        """A learner that goes on from the newest checkpoint."""
        self.surviving = [entry for entry in self.surviving if entry[0] <= self.checkpoint]
        self.batch, self.asked_mark = [], -1
        peer = BatchPeer(
            rank=0,
            world=1,
            batch_size=self.batch_rows,
            token=f"learner {number}",
            incarnation=number,
            resumed_from=self.checkpoint,
        )
        return Learner(peer, number)

    def _step_learner(self) -> None:
        learner, before = self.learner, self.version
        taken = learner.peer.take

        def take() -> object:
            delivery = taken()
            if delivery is not None:
                batch = delivery.batch
                rows = batch.observations[batch.fresh][:, 0].tolist()
                self.batch = [(mark, int(sequence)) for mark, sequence in rows]
            return delivery

        learner.peer.take = take  # type: ignore[method-assign,assignment]
        super()._step_learner()
        learner.peer.take = taken  # type: ignore[method-assign]
        if self.version > before:
            self.surviving.append((self.version, self.batch))
        self._save()

    def _save(self) -> None:
        """A checkpoint is written once ingest has answered, and then committed."""
        peer = self.learner.peer
        if self.asked_mark < 0 and self.version > self.checkpoint and self.random.random() < 0.05:
            self.asked_mark = self.version
            peer.ask_mark(self.learner.step)
        elif self.asked_mark >= 0 and peer.new_mark is not None:
            self.checkpoint, self.asked_mark = self.asked_mark, -1
            peer.commit(peer.new_mark["cursor"])
            peer.new_mark = None

    def calm(self) -> None:
        """Stop all faults from here on."""
        super().calm()
        self.faults, self.full_until = ServerFaults(), 0.0

    def times_trained(self) -> Counter[tuple[float, int]]:
        """How often each trajectory was trained on, in the line of the run that survives."""
        return Counter(row for _, rows in self.surviving for row in rows)

    def check_acknowledged(self) -> None:
        """Check that every server knows what was acknowledged (durable mode)."""
        for actor in self.actors:
            self._check_actor(actor)

    def _check_actor(self, actor: Actor) -> None:
        session = next((s for s in self.core.sessions if s.actor_id == actor.number), None)
        if session is not None and session.incarnation == actor.incarnation:
            assert actor.peer._acknowledged <= session.next
        assert actor.peer.forgotten == 0

    def reread(self) -> LogState:
        """What a server that started now would know."""
        state = LogState(self.again)
        disk = deepcopy(self.disk)
        disk.room = None
        read_into(state, SegmentLog(disk, segment_bytes=4000))
        return state
