"""Checks the blocks of actors and stores them in the queue and the log, or rejects them."""

from __future__ import annotations

from collections.abc import Callable

from oatmill.errors import WireError
from protocol.data.run_schema import RunSchema
from protocol.data.trajectory import Array, BlockSize
from protocol.security.users import UnauthorisedError, User
from protocol.wire.codec import Buffer
from replay.ingest.actors.incoming import ActorMessages
from replay.ingest.actors.session import ActorSession, Arrival
from replay.ingest.fleet import FleetStatistics
from replay.ingest.validation import Validator
from replay.log.journal import Journal
from replay.quarantine import BadMessage, Rejections
from replay.store.queue import QueuedRows, TrajectoryQueue


class Intake:
    """Stores the blocks of all actors.

    Args:
        actor_messages: handles everything in a message except its block.
        queue: gets the blocks.
        journal: records them.
        fleet: counts them.
        rejections: counts bad messages.
        steps: T, the length of an unroll.
        max_abs_reward: the largest absolute value of a reward that is accepted.
        on_schema: called once with the run's schema, before the first block is checked.
    """

    def __init__(
        self,
        actor_messages: ActorMessages,
        queue: TrajectoryQueue,
        journal: Journal,
        fleet: FleetStatistics,
        rejections: Rejections,
        *,
        steps: int,
        max_abs_reward: float,
        on_schema: Callable[[RunSchema], None],
    ) -> None:
        self._messages, self._queue, self._journal, self._fleet = actor_messages, queue, journal, fleet
        self._rejections = rejections
        self._steps, self._max_abs_reward, self._on_schema = steps, max_abs_reward, on_schema
        self._validator: Validator | None = None

    def receive(
        self, route: bytes, header: Buffer, payload: Buffer, *, version: int, queued: int, now: float, wall: float, user: User
    ) -> None:
        """Handle one message. A bad one is counted, and the session continues.

        Arguments as in `ActorMessages.receive`; `wall` is in seconds since the epoch.
        """
        session = None
        try:
            arrival = self._messages.receive(route, header, payload, version=version, queued=queued, now=now, user=user)
            if arrival is not None:
                session = arrival.session
                self._store(arrival, version, now, wall)
        except UnauthorisedError as error:
            self._rejections.add(
                BadMessage.of(error, "data", header, payload)
            )  # no strike, because the actor that the message names did not send it
        except WireError as error:
            self._rejections.add(BadMessage.of(error, "data", header, payload))
            self._strike(session or self._messages.sessions.at(route))

    def bad_frames(self, route: bytes, error: WireError, socket: str) -> None:
        """Count a message that does not have two frames."""
        self._rejections.add(BadMessage.of(error, socket))
        self._strike(self._messages.sessions.at(route))

    def _strike(self, session: ActorSession | None) -> None:
        if session is not None and not session.ended:
            self._messages.sessions.strike(session)

    def _store(self, arrival: Arrival, version: int, now: float, wall: float) -> None:
        """Queue a block, or count it as rejected and raise an error. It is acknowledged in both cases."""
        message, rows, actor = arrival.message, arrival.message.trajectories, arrival.session.actor_id
        self._messages.stored(arrival)
        counts = [message.produced, message.evicted]
        size = BlockSize(rows, message.steps, message.finals, message.episodes)
        try:
            arrays, nbytes = self._open(arrival, size, version)
        except WireError:
            self._journal.record("refused", actor, rows, counts)
            raise
        number = self._journal.record("stored", actor, list(size), message.policy_version, counts, payload=arrival.payload)
        self._queue.append(QueuedRows(arrays, 0, rows, message.policy_version, now, nbytes, record=number))
        self._fleet.stored(arrays, wall - message.collected_at, version - message.policy_version)

    def describe(self, schema: RunSchema) -> Validator:
        """Prepare the checks for the run's schema."""
        self._on_schema(schema)
        self._validator = Validator(schema.spaces.action, self._max_abs_reward)
        return self._validator

    def _open(self, arrival: Arrival, size: BlockSize, version: int) -> tuple[dict[str, Array], int]:
        """Return the block's fields after checking them, and their length in bytes."""
        message, schema = arrival.message, self._messages.sessions.schema
        assert schema is not None, "a session opens with a schema"
        validator = self._validator or self.describe(schema)
        if message.schema_id != schema.identity:
            raise WireError("schema", f"expected schema {schema.identity}, got {message.schema_id[:40]!r}")
        if message.steps != self._steps:
            raise WireError("unroll_length", f"expected {self._steps} steps, got {message.steps}")
        if not 0 <= message.policy_version <= version:
            raise WireError("version_range", f"expected 0 to {version}, got {message.policy_version}")
        ends = message.trajectories * message.steps
        if not (0 <= message.finals <= ends and 0 <= message.episodes <= ends):
            raise WireError("final_index", f"expected at most {ends} ends, got {message.finals} and {message.episodes}")
        try:
            arrays = schema.trajectory.unpack(arrival.payload, size)
        except ValueError as error:
            raise WireError("payload_length", str(error)) from None
        validator.check(arrays)
        return arrays, schema.trajectory.nbytes(size)
