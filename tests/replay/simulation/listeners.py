"""Receivers of messages on each socket, for tests that send bad messages and then check that good ones are accepted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

from oatmill.errors import WireError
from protocol.data.trajectory import BlockSize
from protocol.data.weights import digest_of
from protocol.peers.batch import BatchPeer
from protocol.peers.control import ControlPeer
from protocol.peers.trajectory import TrajectorySenderPeer
from protocol.peers.weights import ReceiverPeer
from protocol.wire import messages
from protocol.wire.codec import decode, encode, to_json, two_frames
from replay.hub.core import HubCore
from replay.hub.members import Members
from replay.store.buffer import NO_BUFFER, BufferSettings
from tests.replay.bad_messages import ACTOR, CONFIG, LEARNER, NUMBERS, SCHEMA, Frames
from tests.replay.blocks import block
from tests.replay.conversation import Conversation


class Listener(Protocol):
    """One end of a socket."""

    def hear(self, frames: Frames) -> list[str]:
        """Take in a message; the reasons of the REJECTs that it is answered with."""

    def counted(self) -> Counter[str]:
        """Bad messages so far, by reason."""

    def goes_on(self) -> bool:
        """Whether a good message is still taken."""


def rejected(answers: list[Any]) -> list[str]:
    """The reasons among answers."""
    return [answer.reason for answer in answers if isinstance(answer, messages.Reject)]


class Ingest:
    """Ingest with one actor and one rank."""

    def __init__(self, buffer: BufferSettings = NO_BUFFER) -> None:
        self.talk = Conversation(buffer=buffer)
        self.talk.hello(schema=SCHEMA)
        self.talk.learn(token="before")
        self.talk.learn(token="t", incarnation=1)

    def counted(self) -> Counter[str]:
        return +Counter(self.talk.core.report()["rejected_by"])

    def _send(self) -> int:
        """Store a block; the next sequence number."""
        number = self.talk.session().next
        self.talk.send(number, block(2, first=number, schema=SCHEMA), schema=SCHEMA)
        return self.talk.session().next - number


class DataListener(Ingest):
    """Ingest on its data socket; it has stored a block."""

    def __init__(self) -> None:
        super().__init__()
        self._send()

    def hear(self, frames: Frames) -> list[str]:
        core, route = self.talk.core, b"actor 0"
        try:
            core.receive_data(route, *two_frames(frames), self.talk.now)
        except WireError as error:
            core.bad_frames(route, error)
        return rejected(self.talk.answers())

    def goes_on(self) -> bool:
        return self._send() == 2


class BatchListener(Ingest):
    """Ingest on its batches socket; it has handed out batch 0 of 4 rows, and asks for priorities."""

    def __init__(self) -> None:
        super().__init__(BufferSettings(fraction=0.5, size=8, max_bytes=2**20, sampling="prioritised"))
        self._send()
        self._send()
        core = self.talk.core
        core.receive_batches(b"rank 0", encode(messages.Get(0, "t", 0, 0, -1, -1, 0))[0])
        core.turn(0.0)
        core.outgoing_batches()

    def hear(self, frames: Frames) -> list[str]:
        try:
            header, payload = two_frames(frames)
            self.talk.core.receive_batches(b"rank 0", header, payload=payload)
        except WireError as error:
            self.talk.core.bad_frames(b"rank 0", error)
        return rejected(self.talk.told())

    def goes_on(self) -> bool:
        self._send()
        self._send()
        core = self.talk.core
        core.receive_batches(b"rank 0", encode(messages.Get(0, "t", 10, 0, -1, -1, 0))[0])
        core.turn(0.0)
        answers = [decode(header, messages.BATCH_TO_RANK) for _, (header, _) in core.outgoing_batches()]
        return any(isinstance(answer, messages.BatchMessage) for answer in answers)


class Hub:
    """The hub with ingest `i`, the actor `a`, one that has `gone`, and the learner `l`; it holds version 3."""

    def __init__(self) -> None:
        self.core = HubCore(Members(CONFIG, "s"), desired_actors=2, weights_endpoint="ipc:///w")
        self.say(messages.Hello("ingest", -1, "i", -1), {"secret": "s", "data": "ipc:///d", "batches": "ipc:///b"})
        self.say(messages.Heartbeat("i"), {"report": {}, "answering": 0, "serial": 0})
        for token in ("gone", "a"):
            self.say(messages.Hello("actor", -1, token, -1), ACTOR)
        self.say(messages.Hello("learner", -1, "l", -1), LEARNER)
        self.say(messages.Bye("gone"), {})
        self.version = 2
        self.push()

    def say(self, message: Any, values: dict[str, Any]) -> list[Any]:
        return self._control([encode(message)[0], to_json(values)])

    def push(self) -> bool:
        """Push the next version; whether it is held."""
        self.version += 1
        digest = digest_of(self.version, "float32", NUMBERS).hex()
        frames = encode(messages.WeightsPush(self.version, "float32", digest, 0.0, "l"), NUMBERS)
        return self._weights([bytes(frame) for frame in frames]) == [messages.WeightsHeld(self.version)]

    def _control(self, frames: Frames) -> list[Any]:
        try:
            self.core.receive_control(b"peer", *two_frames(frames), 0.0)
        except WireError as error:
            self.core.bad_frames(error)
        return [decode(header, messages.CONTROL_TO_CLIENT) for _, (header, _) in self.core.outgoing_control()]

    def _weights(self, frames: Frames) -> list[Any]:
        try:
            self.core.receive_weights(b"peer", *two_frames(frames), now=0.0, wall=0.0)
        except WireError as error:
            self.core.bad_frames(error)
        return [decode(header, messages.WEIGHTS_TO_CLIENT) for _, (header, _) in self.core.weights.outgoing()]

    def counted(self) -> Counter[str]:
        return Counter(self.core.rejected_by())


class ControlListener(Hub):
    """The hub on its control socket."""

    def hear(self, frames: Frames) -> list[str]:
        return rejected(self._control(frames))

    def goes_on(self) -> bool:
        joined = self.say(messages.Hello("actor", -1, "good", -1), ACTOR)
        return any(isinstance(answer, messages.HelloAccepted) for answer in joined)


class WeightsListener(Hub):
    """The hub on its weights socket."""

    def hear(self, frames: Frames) -> list[str]:
        return rejected(self._weights(frames))

    def goes_on(self) -> bool:
        return self.push()


class Client:
    """A client's state machine; what is bad is raised, logged by `protocol.channels.connection` and dropped."""

    peer: Any

    def __init__(self) -> None:
        self._counted: Counter[str] = Counter()

    def hear(self, frames: Frames) -> list[str]:
        try:
            self.peer.receive(*two_frames(frames), 1.0)
        except WireError as error:
            self._counted[error.reason] += 1
        return []

    def counted(self) -> Counter[str]:
        return Counter(self._counted)

    def tell(self, message: Any, payload: bytes = b"") -> None:
        """A good message."""
        self.peer.receive(encode(message)[0], payload, 1.0)


class ActorsData(Client):
    """An actor that has sent two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.peer = TrajectorySenderPeer(actor_id=0, incarnation=1, schema=SCHEMA, rows=2, when_full="block")
        self.tell(messages.DataWelcome(1, 1, 0, 0, 10**6, SCHEMA.row_bytes(2), 0))
        for first in (0, 2):
            self.peer.offer(block(2, first=first, schema=SCHEMA))
        assert len(self.peer.send(0.0)) >= 2

    def goes_on(self) -> bool:
        self.tell(messages.Ack(1, 1, 100, 2, 1000, 0, resend=False))
        return bool(self.peer.unacknowledged == 2)


class RanksBatches(Client):
    """A rank that waits for its first batch."""

    def __init__(self) -> None:
        super().__init__()
        self.peer = BatchPeer(rank=0, world=1, batch_size=2, token="t")
        self.peer.request(0)
        self.peer.send(0.0)
        self.tell(messages.BatchWelcome("t"), to_json(SCHEMA.to_dict()))

    def goes_on(self) -> bool:
        payload = bytes(SCHEMA.batch.nbytes(BlockSize(2, 2, 0, 0)))
        self.tell(messages.BatchMessage(1, 0, 0, 2, 2, 0, stop=False), payload)
        return self.peer.take() is not None


class ClientsControl(Client):
    """A process that has joined, and an operator's question of which waits."""

    def __init__(self) -> None:
        super().__init__()
        self.peer = ControlPeer(role="actor", description=ACTOR, actor_id=None, token="a")
        self.peer.ask("status", {})

    def goes_on(self) -> bool:
        self.tell(messages.HubState(0, stop=False, desired_actors=9, fenced=False, report_asked=0), b"{}")
        return bool(self.peer.state.desired_actors == 9)


class ActorsWeights(Client):
    """An actor that pulls version 4."""

    def __init__(self) -> None:
        super().__init__()
        self.peer = ReceiverPeer((("w", (10,)),))
        self.peer.want(4)
        self.peer.send(0.0)

    def goes_on(self) -> bool:
        self.tell(messages.WeightsChunk(4, "float32", digest_of(4, "float32", NUMBERS).hex(), 40, 0), NUMBERS)
        taken = self.peer.take()
        return taken is not None and taken.version == 4 and taken.buffer == NUMBERS


LISTENERS: dict[str, Callable[[], Listener]] = {
    "data": DataListener,
    "batches": BatchListener,
    "control": ControlListener,
    "weights": WeightsListener,
    "data to actor": ActorsData,
    "batches to rank": RanksBatches,
    "control to client": ClientsControl,
    "weights to client": ActorsWeights,
}
