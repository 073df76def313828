"""Ingest, with helpers that send it messages and return its answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from protocol.data.priorities import pack_priorities
from protocol.data.run_schema import RunSchema
from protocol.data.trajectory import BlockSize, TrajectoryBlock
from protocol.wire import messages
from protocol.wire.codec import decode, encode, to_json
from replay.ingest.actors.session import ActorSession
from replay.ingest.core import IngestCore, IngestSettings
from replay.store.buffer import NO_BUFFER, BufferSettings
from tests.replay.blocks import SCHEMA, block


class Conversation:
    """Ingest with blocks of `rows` trajectories of 2 steps, batches of `batch_rows`, and version 0 known.

    Args:
        batch_rows: trajectories of a batch.
        queue_batches: batches that may wait.
        max_policy_lag: versions.
        max_abs_reward: the largest reward.
        buffer: how much of a batch is sampled again.
    """

    def __init__(
        self,
        *,
        batch_rows: int = 4,
        queue_batches: float = 4.0,
        max_policy_lag: int = 16,
        max_abs_reward: float = 1e6,
        buffer: BufferSettings = NO_BUFFER,
    ) -> None:
        self.core = IngestCore(IngestSettings(2, batch_rows, queue_batches, max_policy_lag, max_abs_reward, buffer))
        self.batch_rows = batch_rows
        self.now = 0.0
        self.requests: dict[int, int] = {}
        self.received: dict[bytes, int] = {}  # by connection, the last batch that was sent on it
        self.hub(0)

    def hub(self, version: int, members: dict[int, tuple[int, bool]] | None = None) -> None:
        """The hub's word."""
        self.core.hub_says(policy_version=version, stop=False, members=members)

    def hello(self, actor: int = 0, incarnation: int = 1, rows: int = 2, schema: RunSchema = SCHEMA) -> list[Any]:
        """An actor's HELLO, and the answers."""
        message = messages.DataHello(actor, incarnation, rows, schema.identity, 0, 0, 0)
        return self.say(message, to_json(schema.to_dict()), actor)

    def say(self, message: Any, payload: Any = b"", actor: int = 0) -> list[Any]:
        """Any message of an actor's, and the answers to actors."""
        self.core.receive_data(f"actor {actor}".encode(), encode(message)[0], payload, self.now)
        return self.answers()

    def send(
        self,
        first: int,
        content: TrajectoryBlock | None = None,
        *,
        actor: int = 0,
        incarnation: int = 1,
        schema: RunSchema = SCHEMA,
        payload: Any = None,
        **header: Any,
    ) -> list[Any]:
        """A block, and the answers. `payload` replaces the packed block, and `header` fields of the header."""
        content = block(2, first=first) if content is None else content
        size = content.size
        values: dict[str, Any] = {
            "actor_id": actor,
            "incarnation": incarnation,
            "schema_id": schema.identity,
            "first": first,
            "trajectories": size.trajectories,
            "steps": size.steps,
            "finals": size.finals,
            "episodes": size.episodes,
            "policy_version": content.policy_version,
            "collected_at": 0.0,
            "produced": first + size.trajectories,
            "evicted": 0,
            "counters": {},
        }
        payload = schema.trajectory.pack(content) if payload is None else payload
        return self.say(messages.Data(**(values | header)), payload, actor)

    def answers(self) -> list[Any]:
        """What ingest has to say to actors."""
        self.core.turn(self.now)
        return [decode(header, messages.DATA_TO_ACTOR) for _, (header, _) in self.core.outgoing_data()]

    def session(self, actor: int = 0) -> ActorSession:
        """An actor's newest session."""
        return next(session for session in self.core.sessions if session.actor_id == actor)

    # -------------------------------------------------------------------------------------------------- the learner

    def learn(
        self, rank: int = 0, world: int = 1, token: str = "t", *, incarnation: int = 0, resumed_from: int = -1
    ) -> list[Any]:
        """A rank's HELLO, and the answers to ranks."""
        return self.tell(messages.BatchHello(rank, world, self.batch_rows, token, incarnation, resumed_from), rank)

    def get(self, rank: int = 0, token: str = "t", *, again: bool = False, consumed: int = -1, version: int = 0) -> list[Any]:
        """A rank's request, and the answers to ranks."""
        self.requests[rank] = self.requests.get(rank, 0) + (not again)
        received = self.received.get(route_of(rank), -1)
        server = self.core._batches._server
        return self.tell(messages.Get(rank, token, self.requests[rank], 0, consumed, received, version, server=server), rank)

    def consumed(
        self, batch_id: int, rank: int = 0, token: str = "t", version: int = 0, priorities: Sequence[float] | None = None
    ) -> list[Any]:
        """A rank's CONSUMED, and the answers."""
        payload = b"" if priorities is None else pack_priorities(np.array(priorities))
        return self.tell(messages.Consumed(rank, token, batch_id, version), rank, payload)

    def tell(self, message: Any, rank: int = 0, payload: bytes = b"") -> list[Any]:
        """Any message of a rank's, and the answers to ranks."""
        self.core.receive_batches(route_of(rank), encode(message)[0], payload=payload)
        return self.told()

    def told(self) -> list[Any]:
        """What ingest has to say to ranks; a batch comes with the second observation of each of its rows."""
        self.core.turn(self.now)
        found = []
        for route, (header, payload) in self.core.outgoing_batches():
            answer = decode(header, messages.BATCH_TO_RANK)
            if isinstance(answer, messages.BatchMessage):
                self.received[route] = answer.batch_id
                found.append((answer, rows_of(answer, payload)))
            else:
                found.append(answer)
        return found


def route_of(rank: int) -> bytes:
    """A rank's connection, as ingest sees it."""
    return f"rank {rank}".encode()


def rows_of(message: messages.BatchMessage, payload: Any) -> list[int]:
    """Which rows a batch holds."""
    size = BlockSize(message.trajectories, message.steps, message.finals, 0)
    return [int(number) for number in SCHEMA.batch.views(payload, size)["observations"][:, 0, 1]]


def batches_in(answers: list[Any]) -> list[tuple[messages.BatchMessage, list[int]]]:
    """The batches among what a rank was told."""
    return [answer for answer in answers if isinstance(answer, tuple)]
