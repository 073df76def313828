"""Incoming messages, from actors to ingest: one session per actor, contiguous sequence numbers, fencing.

Within one (actor, incarnation), trajectories are stored at most once, in order and without gaps.
Only the block with the next sequence number is stored. A block with a lower number is acknowledged
again. A block with a higher number makes the actor resend from the missing block. Fencing means that
an incarnation is rejected after a newer one has taken its place.
"""

from __future__ import annotations

from collections.abc import Iterable

from oatmill.errors import WireError
from protocol.data.run_schema import RunSchema
from protocol.data.trajectory import BlockSize
from protocol.security.users import ANYBODY, UnauthorisedError, User, require
from protocol.wire import messages
from protocol.wire.codec import Buffer, Frames, decode, from_json
from replay.claim_limits import check_acknowledged, check_counts
from replay.ingest.actors.credit import CreditLine, Holder
from replay.ingest.actors.outgoing import OutgoingMessages
from replay.ingest.actors.session import ActorSession, Arrival
from replay.ingest.actors.sessions import ActorSessions
from replay.ingest.admissions import Admissions
from replay.log.journal import Journal

RESEND_EVERY_S = 0.2
"""An actor is told of the same gap at most once in this time, although every message after a gap shows it."""
MAX_ROWS = 2**16
MAX_BLOCK_BYTES = 2**30
"""The largest block without its final observations, which may double its size. The data socket drops longer
frames without reading them."""


class ActorMessages:
    """Handles the messages of all actors.

    Args:
        steps: T, the length of an unroll.
        credit: decides how much each actor may send.
        journal: records every change.
        server: a number that no other ingest process has.
        admissions: decides which process may send messages as which actor; None allows everybody.

    Attributes:
        sessions: one session for each actor.
    """

    def __init__(
        self, steps: int, credit: CreditLine, journal: Journal, server: int, admissions: Admissions | None = None
    ) -> None:
        self._steps, self._credit, self._journal = steps, credit, journal
        self._admissions = admissions
        self._answers = OutgoingMessages(server)
        self.sessions = ActorSessions(steps, credit, journal, self._answers)

    def receive(
        self, route: bytes, header: Buffer, payload: Buffer, *, version: int, queued: int, now: float, user: User = ANYBODY
    ) -> Arrival | None:
        """Handle one message.

        Args:
            route: the connection that it arrived on.
            header: its first frame.
            payload: its second frame.
            version: the newest policy version.
            queued: the number of trajectories that wait.
            now: seconds of the monotonic clock.
            user: the owner of the connection's key.

        Returns:
            A block to store (call `stored` after it), or None if there is nothing more to do.

        Raises:
            UnauthorisedError: if its sender is not allowed to send it; no session has changed.
            WireError: if it breaks the protocol; the session continues.
        """
        message: messages.DataToIngest = decode(header, messages.DATA_TO_INGEST)
        self._authorise(route, message, user)
        if isinstance(message, messages.DataHello):
            schema = read_hello(message, payload)
            try:
                self._hello(route, message, schema, version)
            except WireError as error:  # without an answer, the actor would repeat HELLO for ever
                self._answers.reject(route, "request", error.detail)
                raise
            return None
        if message.evicted > message.produced:
            raise WireError("header_fields", f"expected evicted <= produced, got {message.evicted} and {message.produced}")
        session = self._session(route, message.actor_id, message.incarnation)
        if session is None or session.ended:
            self._farewell(route, message, session)
            return None
        self.sessions.move(session, route)
        if isinstance(message, messages.Data):
            return self._data(session, message, payload, version=version, queued=queued, now=now)
        check_counts(message.produced, message.evicted, session.next)
        self.sessions.report(session, message.produced, message.evicted)
        if isinstance(message, messages.DataBye):
            self.sessions.end(session)
            self._farewell(route, message, session)
        else:
            self._answers.add(session)
        return None

    def _authorise(self, route: bytes, message: messages.DataToIngest, user: User) -> None:
        """Reject a message that does not come from the actor that it names, before that actor's session can change."""
        if self._admissions is None:
            return
        try:
            require(user, "actor")
            self._admissions.check_actor(message.actor_id, message.incarnation, message.session, user)
        except UnauthorisedError as error:
            self._answers.reject(route, error.reason, error.detail)
            raise
        if isinstance(message, messages.DataHello) and self._admissions.is_newer(message.actor_id, message.incarnation):
            # Not answered, because the hub's table may be on its way. An actor that has joined repeats HELLO after a second.
            raise UnauthorisedError("unknown_session", f"actor {message.actor_id} incarnation {message.incarnation}")

    def _session(self, route: bytes, actor_id: int, incarnation: int) -> ActorSession | None:
        """The session that a message names; None, and a REJECT, if a newer incarnation has replaced it.

        Raises:
            WireError: `unknown_session` if that incarnation never said HELLO.
        """
        session = self.sessions.find(actor_id)
        if session is None or incarnation > session.incarnation:
            self._answers.reject(route, "forgotten", f"actor {actor_id} incarnation {incarnation} has not said HELLO here")
            raise WireError("unknown_session", f"actor {actor_id} incarnation {incarnation}")
        if incarnation < session.incarnation:
            self._answers.reject(route, "fenced", f"incarnation {session.incarnation} of actor {actor_id} has taken over")
            return None
        return session

    def _farewell(
        self, route: bytes, message: messages.Data | messages.DataHeartbeat | messages.DataBye, session: ActorSession | None
    ) -> None:
        """Answer an actor whose session has ended: BYE with BYE, any other message with the reason of the end."""
        if session is None:
            return
        if isinstance(message, messages.DataBye):
            self._answers.say(route, message)
        else:
            self._answers.turn_away(session, route)

    def _hello(self, route: bytes, hello: messages.DataHello, schema: RunSchema, version: int) -> None:
        if self.sessions.schema is None:
            self.sessions.describe(schema)
            self._journal.record("described", schema.to_dict())
        elif schema != self.sessions.schema:
            self._answers.reject(route, "schema", self.sessions.schema.difference(schema))
            return
        session = self.sessions.find(hello.actor_id)
        check_counts(hello.produced, hello.evicted, max(hello.acknowledged, 0 if session is None else session.next))
        newest = max(self.sessions.members.get(hello.actor_id, (-1, True))[0], -1 if session is None else session.incarnation)
        if hello.incarnation < newest:
            self._answers.reject(route, "fenced", f"incarnation {newest} of actor {hello.actor_id} has taken over")
            return
        if session is None or hello.incarnation > session.incarnation:
            nbytes = schema.trajectory.nbytes(BlockSize(hello.rows, self._steps, 0, 0))
            if nbytes > MAX_BLOCK_BYTES:
                self._answers.reject(route, "block_size", too_large(hello.rows, nbytes))
                return
            session = self.sessions.open(route, hello)
        elif session.ended:
            self._answers.turn_away(session, route)
            return
        self.sessions.move(session, route)
        self._compare(session, hello)
        self._answers.welcome(session, version)

    def _compare(self, session: ActorSession, hello: messages.DataHello) -> None:
        """Continue after the last block that was acknowledged to the actor, even if an earlier server did that.

        Raises:
            WireError: `sequence` if no server can have acknowledged so much; the actor is rejected.
        """
        first = session.next
        if hello.acknowledged > first:
            check_acknowledged(hello.acknowledged, hello.produced - hello.evicted, first, spoken=session.serial > 0)
            self._answers.say(session.route, messages.DataLoss(session.incarnation, first, hello.acknowledged))
            self.sessions.forget(session, hello.acknowledged)
        self.sessions.report(session, hello.produced, hello.evicted)

    def _data(
        self, session: ActorSession, message: messages.Data, payload: Buffer, *, version: int, queued: int, now: float
    ) -> Arrival | None:
        rows, following = message.trajectories, session.next
        check_block(message, session.rows, following)
        if message.first == following:
            self._answers.add(session)
            if version < 0 or not self._credit.admit(session, rows, queued, now):
                return None  # no credit, or no policy version yet; the actor keeps the block
            self._credit.want(session)
            return Arrival(session, message, payload)
        if message.first + rows <= following:
            self.sessions.duplicates += rows
            self._answers.add(session)
        elif message.first < following:
            raise WireError("sequence", f"expected {following} or whole blocks below it, got {message.first} and {rows} rows")
        elif session.gap[0] != following or now - session.gap[1] >= RESEND_EVERY_S:
            session.gap = (following, now)
            self._answers.add(session, resend=True)
        return None

    def stored(self, arrival: Arrival) -> None:
        """Acknowledge a block as soon as the log contains its record."""
        self._answers.stored(arrival.session)

    def committed(self) -> None:
        """Acknowledge everything stored so far. Call it when the log contains all of it."""
        self._answers.committed()

    def look(self, now: float) -> None:
        """Find slow, late and silent actors. Call it only when no message waits."""
        self._tell(self._credit.look(self.sessions, now))

    def _tell(self, holders: Iterable[Holder]) -> None:
        """Tell sessions how much credit they have now."""
        for holder in holders:
            assert isinstance(holder, ActorSession), "only sessions ask for credit"
            self._answers.add(holder)

    def outgoing(self, *, version: int, queued: int, now: float) -> list[tuple[bytes, Frames]]:
        """Return everything to send now: answers, and new credit for each session that changed."""
        self._tell(self._credit.grant(queued, now))
        return self._answers.outgoing(version)


def check_block(message: messages.Data, rows: int, following: int) -> None:
    """Check the counts in a block's header.

    Args:
        message: the header.
        rows: the number of trajectories per block that HELLO announced.
        following: the session's next sequence number.

    Raises:
        WireError: if they contradict each other or earlier counts.
    """
    if message.trajectories != rows:
        detail = f"expected blocks of {rows} trajectories, as HELLO said, got {message.trajectories}"
        raise WireError("rows", detail)
    check_counts(message.produced, message.evicted, following)
    if message.first + rows + message.evicted > message.produced:
        detail = f"{message.first} + {rows} and evicted {message.evicted}"
        raise WireError("header_fields", f"expected produced to be at least {detail}, got {message.produced}")


def too_large(rows: int, nbytes: int) -> str:
    """Return the message for an actor whose blocks are too large."""
    detail = f"a block of {rows} trajectories has {nbytes} bytes, at most {MAX_BLOCK_BYTES} are allowed"
    return f"{detail}; lower actors.envs_per_actor or actors.unroll_length"


def read_hello(hello: messages.DataHello, payload: Buffer) -> RunSchema:
    """Return the schema that an actor sends.

    Raises:
        WireError: if it is invalid, does not have the identity that HELLO states, or the number of
            rows is out of range.
    """
    if not 0 < hello.rows <= MAX_ROWS:
        raise WireError("header_fields", f"expected 1 to {MAX_ROWS} rows, got {hello.rows}")
    schema = RunSchema.from_dict(from_json(payload))
    if hello.schema_id != schema.identity:
        raise WireError("schema", f"the schema is {schema.identity}, HELLO calls it {hello.schema_id[:40]!r}")
    return schema
