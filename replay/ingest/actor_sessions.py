"""Ingest's half of the data socket, without the socket: one session an actor, contiguous sequences, fencing, acknowledgements.

Within one (actor, incarnation) trajectories are stored at most once, in order and without gaps: only the next sequence number
is taken, lower ones are acknowledged again, higher ones make the actor start again from the missing one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from oatmill.errors import WireError
from protocol.data.run_schema import RunSchema
from protocol.data.trajectory import BlockSize
from protocol.security.users import ANYBODY, UnauthorisedError, User, require
from protocol.wire import messages
from protocol.wire.codec import Buffer, Frames, decode, encode, from_json, shortened
from replay.ingest.actor_session import Arrival, Session
from replay.ingest.admissions import Admissions
from replay.ingest.credit import CreditLine, Holder
from replay.log.journal import Journal
from replay.log.ledger import ActorTotals
from replay.log.state import Books
from replay.plausible import check_acknowledged, check_counts

MAX_STRIKES = 3
"""Bad messages after which an actor is turned away; its next incarnation begins anew."""
RESEND_EVERY_S = 0.2
"""An actor is told of the same gap this often at most, for every message after a gap shows it."""
MAX_ROWS = 2**16
MAX_BLOCK_BYTES = 2**30
"""Not counting final observations, which may double it. The data socket drops longer frames unread."""


class DataSessions:
    """All actors' sessions.

    Args:
        steps: T, for the price of a row.
        credit: who may send how much.
        journal: is told of every change.
        server: a number that no other ingest process has.
        admissions: who may speak as which actor; None asks nobody (a simulation's peers are honest).

    Attributes:
        schema: the run's, from the first actor's HELLO.
        duplicates: trajectories that came again.
        forgotten: trajectories that were acknowledged by a server that has died and of which no more is known.
    """

    def __init__(
        self, steps: int, credit: CreditLine, journal: Journal, server: int, admissions: Admissions | None = None
    ) -> None:
        self._steps, self._credit, self._journal, self._server = steps, credit, journal, server
        self._admissions = admissions
        self._unheld: dict[int, Session] = {}  # those of which something waits to be written to the log
        self._by_actor: dict[int, Session] = {}
        self._by_route: dict[bytes, Session] = {}
        self._due: dict[int, tuple[Session, bool]] = {}  # acknowledgements to send, by actor, and whether to resend
        self._outgoing: list[tuple[bytes, Frames]] = []
        self._past = ActorTotals(0, 0, 0, 0)  # of incarnations that were replaced
        self._members: Mapping[int, tuple[int, bool]] = {}
        self._row_bytes = 0  # what one trajectory costs of the credit
        self.block_bytes = 0  # of the largest block that may come
        self.schema: RunSchema | None = None
        self.duplicates = self.forgotten = 0

    def restore(self, books: Books) -> None:
        """Go on where a server that has died was."""
        totals = books.totals
        self._past = ActorTotals(totals.past_produced, totals.past_evicted, 0, totals.past_unsent)
        if books.schema is not None:
            self._describe(RunSchema.from_dict(books.schema))
        for actor, account in books.accounts.items():
            session = Session(actor, account.incarnation, account.rows, b"", account.next, account.next)
            session.produced, session.evicted, session.rejected = account.produced, account.evicted, account.rejected
            session.strikes, session.ended = account.strikes, account.ended
            self._by_actor[actor] = session
        self._resize()
        for session in self:
            self._credit.want(session)

    def _describe(self, schema: RunSchema) -> None:
        self.schema, self._row_bytes = schema, schema.row_bytes(self._steps)

    def __iter__(self) -> Iterator[Session]:
        """The newest session of each actor."""
        return iter(self._by_actor.values())

    @property
    def totals(self) -> ActorTotals:
        """Sums over all sessions there ever were."""
        sessions = list(self)
        return ActorTotals(
            self._past.produced + sum(session.produced for session in sessions),
            self._past.evicted + sum(session.evicted for session in sessions),
            sum(session.missing for session in sessions if session.open),
            self._past.unsent_at_death + sum(session.missing for session in sessions if not session.open),
        )

    def receive(
        self, route: bytes, header: Buffer, payload: Buffer, *, version: int, queued: int, now: float, user: User = ANYBODY
    ) -> Arrival | None:
        """Take in one message.

        Args:
            route: the connection that it came on.
            header: its first frame.
            payload: its second frame.
            version: the newest policy version.
            queued: trajectories that wait.
            now: seconds of the monotonic clock.
            user: whose key it came with.

        Returns:
            A block to be stored, then `stored`, or refused, then `strike`; None if there is nothing more to do.

        Raises:
            UnauthorisedError: if its sender may not send it; no session has changed.
            WireError: if it breaks the protocol; the session goes on.
        """
        message: messages.DataToIngest = decode(header, messages.DATA_TO_INGEST)
        self._authorise(route, message, user)
        if isinstance(message, messages.DataHello):
            schema = read_hello(message, payload)
            try:
                self._hello(route, message, schema, version)
            except WireError as error:  # or its sender would ask again every second, and never learn why
                self._reject(route, "request", error.detail)
                raise
            return None
        if message.evicted > message.produced:
            raise WireError("header_fields", f"expected evicted <= produced, got {message.evicted} and {message.produced}")
        session = self._session(route, message.actor_id, message.incarnation)
        if session is None or session.ended:
            self._farewell(route, message, session)
            return None
        self._by_route.pop(session.route, None)
        session.route, self._by_route[route] = route, session
        session.last_data = now
        if isinstance(message, messages.Data):
            return self._data(session, message, payload, version=version, queued=queued, now=now)
        check_counts(message.produced, message.evicted, session.next)
        self._report(session, message.produced, message.evicted)
        if isinstance(message, messages.DataBye):
            self._end(session)
            self._farewell(route, message, session)
        else:
            self._due.setdefault(session.actor_id, (session, False))
        return None

    def _report(self, session: Session, produced: int, evicted: int) -> None:
        """Take in an actor's counts. While the disk is full they are not worth the memory: they come again."""
        before = session.produced, session.evicted
        session.report(produced, evicted)
        if before != (session.produced, session.evicted) and not self._journal.stalled:
            self._journal.record("reported", session.actor_id, session.produced, session.evicted)

    def _authorise(self, route: bytes, message: messages.DataToIngest, user: User) -> None:
        """Turn away whoever is not the actor that a message names, before it can change anything of that actor's."""
        if self._admissions is None:
            return
        try:
            require(user, "actor")
            self._admissions.check_actor(message.actor_id, message.incarnation, message.session, user)
        except UnauthorisedError as error:
            self._reject(route, error.reason, error.detail)
            raise
        if isinstance(message, messages.DataHello) and self._admissions.is_newer(message.actor_id, message.incarnation):
            # No answer: the hub's word may be on its way, and an actor that has joined asks again in a second.
            raise UnauthorisedError("unknown_session", f"actor {message.actor_id} incarnation {message.incarnation}")

    def _session(self, route: bytes, actor_id: int, incarnation: int) -> Session | None:
        """The session that is named; None, and a REJECT, if its place has been taken.

        Raises:
            WireError: `unknown_session` if there never was such a HELLO.
        """
        session = self._by_actor.get(actor_id)
        if session is None or incarnation > session.incarnation:
            self._reject(route, "forgotten", f"actor {actor_id} incarnation {incarnation} has not said HELLO here")
            raise WireError("unknown_session", f"actor {actor_id} incarnation {incarnation}")
        if incarnation < session.incarnation:
            self._reject(route, "fenced", f"incarnation {session.incarnation} of actor {actor_id} has taken over")
            return None
        return session

    def _farewell(
        self, route: bytes, message: messages.Data | messages.DataHeartbeat | messages.DataBye, session: Session | None
    ) -> None:
        """Answer one that has left: a BYE with a BYE, anything else with why it has no session any more."""
        if session is None:
            return
        if isinstance(message, messages.DataBye):
            self._outgoing.append((route, encode(message)))
        else:
            self._turn_away(route, session)

    def _turn_away(self, route: bytes, session: Session) -> None:
        if session.strikes >= MAX_STRIKES:
            self._reject(route, "strikes", f"{session.strikes} bad messages; see oatmill_rejected_total for their reasons")
        else:
            self._reject(route, "fenced", f"actor {session.actor_id} incarnation {session.incarnation} has left or is replaced")

    def _reject(self, route: bytes, reason: str, detail: str) -> None:
        self._outgoing.append((route, encode(messages.Reject(reason, shortened(detail)))))

    def _hello(self, route: bytes, hello: messages.DataHello, schema: RunSchema, version: int) -> None:
        if self.schema is None:
            self._describe(schema)
            self._journal.record("described", schema.to_dict())
        elif schema != self.schema:
            self._reject(route, "schema", self.schema.difference(schema))
            return
        session = self._by_actor.get(hello.actor_id)
        check_counts(hello.produced, hello.evicted, max(hello.acknowledged, 0 if session is None else session.next))
        newest = max(self._members.get(hello.actor_id, (-1, True))[0], -1 if session is None else session.incarnation)
        if hello.incarnation < newest:
            self._reject(route, "fenced", f"incarnation {newest} of actor {hello.actor_id} has taken over")
            return
        if session is None or hello.incarnation > session.incarnation:
            nbytes = schema.trajectory.nbytes(BlockSize(hello.rows, self._steps, 0, 0))
            if nbytes > MAX_BLOCK_BYTES:
                detail = f"a block of {hello.rows} trajectories has {nbytes} bytes, at most {MAX_BLOCK_BYTES} may be"
                self._reject(route, "block_size", f"{detail}; lower actors.envs_per_actor or actors.unroll_length")
                return
            session = self._open(route, hello)
        elif session.ended:
            self._turn_away(route, session)
            return
        self._by_route.pop(session.route, None)
        session.route, self._by_route[route] = route, session
        self._compare(session, hello)
        self._welcome(session, version)

    def _compare(self, session: Session, hello: messages.DataHello) -> None:
        """Go on after what the actor was acknowledged, also where a server that has died has taken it to its grave.

        Raises:
            WireError: `sequence` if no server can have acknowledged so much.
        """
        if hello.acknowledged > session.next:
            check_acknowledged(hello.acknowledged, hello.produced - hello.evicted, session.next, spoken=session.serial > 0)
            self._outgoing.append(
                (session.route, encode(messages.DataLoss(session.incarnation, session.next, hello.acknowledged)))
            )
            self.forgotten += hello.acknowledged - session.next
            self._journal.record("forgot", session.actor_id, hello.acknowledged)
            session.next = session.held = hello.acknowledged
        self._report(session, hello.produced, hello.evicted)

    def _open(self, route: bytes, hello: messages.DataHello) -> Session:
        """Begin a session; the one before it is fenced."""
        former = self._by_actor.get(hello.actor_id)
        if former is not None:
            self._end(former)
            self._due.pop(former.actor_id, None)
            self._unheld.pop(former.actor_id, None)
            self._by_route.pop(former.route, None)
            self._past = replace(
                self._past,
                produced=self._past.produced + former.produced,
                evicted=self._past.evicted + former.evicted,
                unsent_at_death=self._past.unsent_at_death + former.missing,
            )
        session = Session(hello.actor_id, hello.incarnation, hello.rows, route)
        session.pace = session.pace if former is None else former.pace  # it is likely to be as fast as the one before it
        incarnation, alive = self._members.get(hello.actor_id, (-1, True))
        session.alive = alive or incarnation != hello.incarnation
        self._by_actor[hello.actor_id] = session
        self._journal.record("opened", session.actor_id, session.incarnation, session.rows)
        self._resize()
        self._credit.want(session)
        return session

    def _resize(self) -> None:
        self._credit.resize(self, self._row_bytes)
        self.block_bytes = self._row_bytes * max((session.rows for session in self if session.open), default=1)

    def _welcome(self, session: Session, version: int) -> None:
        row_bytes = self._row_bytes
        session.serial += 1
        message = messages.DataWelcome(
            session.incarnation, self._server, session.serial, session.held, session.credit * row_bytes, row_bytes, version
        )
        self._outgoing.append((session.route, encode(message)))

    def _data(
        self, session: Session, message: messages.Data, payload: Buffer, *, version: int, queued: int, now: float
    ) -> Arrival | None:
        rows = message.trajectories
        if rows != session.rows:
            raise WireError("rows", f"expected blocks of {session.rows} trajectories, as HELLO said, got {rows}")
        check_counts(message.produced, message.evicted, session.next)
        if message.first + rows + message.evicted > message.produced:
            detail = f"{message.first} + {rows} and evicted {message.evicted}"
            raise WireError("header_fields", f"expected produced to be at least {detail}, got {message.produced}")
        if message.first == session.next:
            self._due.setdefault(session.actor_id, (session, False))
            if version < 0 or not self._credit.admit(session, rows, queued, now):
                return None  # its credit was taken back, or the hub is new too; it keeps the block until it has new credit
            self._credit.want(session)
            return Arrival(session, message, payload)
        if message.first + rows <= session.next:
            self.duplicates += rows
            self._due.setdefault(session.actor_id, (session, False))
        elif message.first < session.next:
            raise WireError(
                "sequence", f"expected {session.next} or whole blocks below it, got {message.first} and {rows} rows"
            )
        elif session.gap[0] != session.next or now - session.gap[1] >= RESEND_EVERY_S:
            session.gap = (session.next, now)
            self._due[session.actor_id] = (session, True)
        return None

    def stored(self, arrival: Arrival) -> None:
        """Advance past a block that is queued now, or that was refused for good and counted as rejected."""
        session, message = arrival.session, arrival.message
        session.next += message.trajectories
        session.report(message.produced, message.evicted)
        self._unheld[session.actor_id] = session

    def committed(self) -> None:
        """Everything stored so far is held: it may be acknowledged."""
        for session in self._unheld.values():
            session.held = session.next
            self._due.setdefault(session.actor_id, (session, False))
        self._unheld.clear()

    def strike(self, session: Session) -> None:
        """Count a bad message of a session; the third ends it."""
        session.strikes += 1
        if session.strikes >= MAX_STRIKES:
            self._end(session)
            self._due.pop(session.actor_id, None)
            self._reject(
                session.route, "strikes", f"{session.strikes} bad messages; see oatmill_rejected_total for their reasons"
            )

    def session_of(self, route: bytes) -> Session | None:
        """The session that last spoke on a connection."""
        return self._by_route.get(route)

    def _end(self, session: Session) -> None:
        if not session.ended:
            self._journal.record("ended", session.actor_id, session.strikes)
        session.ended = True
        self._credit.take_back(session)
        self._resize()

    def apply_members(self, members: Mapping[int, tuple[int, bool]]) -> None:
        """Take in whom the hub takes for alive.

        Args:
            members: by actor id the newest incarnation, and whether the hub hears from it. One that is not listed has joined
                after the list was made.
        """
        self._members = members
        for session in list(self):
            incarnation, alive = members.get(session.actor_id, (-1, True))
            if incarnation > session.incarnation and not session.ended:
                self._reject(session.route, "fenced", f"incarnation {incarnation} of actor {session.actor_id} has joined")
                self._end(session)
            elif incarnation == session.incarnation and alive != session.alive:
                session.alive = alive
                if not alive:
                    self._credit.take_back(session)
                self._resize()
                self._credit.want(session)

    def look(self, now: float) -> None:
        """Find out who is late, slow or silent. Call it when no message waits."""
        self._tell(self._credit.look(self, now))

    def _tell(self, holders: Iterable[Holder]) -> None:
        """Have sessions told how much credit they have now."""
        for holder in holders:
            assert isinstance(holder, Session), "only sessions stand in line"
            self._due.setdefault(holder.actor_id, (holder, False))

    def outgoing(self, *, version: int, queued: int, now: float) -> list[tuple[bytes, Frames]]:
        """Everything to be sent now: answers, and one acknowledgement with new credit for each session that has news."""
        self._tell(self._credit.grant(queued, now))
        for session, resend in self._due.values():
            if not session.ended and session.actor_id not in self._unheld:
                self._outgoing.append((session.route, self._ack(session, version, resend=resend)))
        self._due = {actor: due for actor, due in self._due.items() if actor in self._unheld}
        # One that spoke to a server that has died has no route until it speaks again.
        outgoing, self._outgoing = [entry for entry in self._outgoing if entry[0]], []
        return outgoing

    def _ack(self, session: Session, version: int, *, resend: bool) -> Frames:
        session.serial += 1
        credit = session.credit * self._row_bytes
        return encode(messages.Ack(session.incarnation, self._server, session.serial, session.held, credit, version, resend))


def read_hello(hello: messages.DataHello, payload: Buffer) -> RunSchema:
    """The schema that an actor tells.

    Raises:
        WireError: if it is none, is called by another's name, or the actor's blocks have no or too many rows.
    """
    if not 0 < hello.rows <= MAX_ROWS:
        raise WireError("header_fields", f"expected 1 to {MAX_ROWS} rows, got {hello.rows}")
    schema = RunSchema.from_dict(from_json(payload))
    if hello.schema_id != schema.identity:
        raise WireError("schema", f"the schema is {schema.identity}, HELLO calls it {hello.schema_id[:40]!r}")
    return schema
