"""The sessions of all actors, and their totals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from protocol.data.run_schema import RunSchema
from protocol.wire import messages
from replay.ingest.actors.credit import CreditLine
from replay.ingest.actors.outgoing import MAX_STRIKES, OutgoingMessages
from replay.ingest.actors.session import ActorSession
from replay.log.journal import Journal
from replay.log.state import ActorTotals


class ActorSessions:
    """One session for each actor. A newer incarnation replaces it.

    Args:
        steps: T, the length of an unroll.
        credit: decides how much each actor may send.
        journal: records every change; what it already contains is restored.
        answers: messages to actors.

    Attributes:
        schema: the run's schema, from the first actor's HELLO.
        block_bytes: the size of the largest block that an actor may send; 0 before the first actor.
        members: the hub's table: by actor id, the newest incarnation and whether the hub receives
            its heartbeats.
        duplicates: the number of trajectories that arrived again.
        forgotten: the number of trajectories that an earlier server acknowledged and lost.
    """

    def __init__(self, steps: int, credit: CreditLine, journal: Journal, answers: OutgoingMessages) -> None:
        self._steps, self._credit, self._journal, self._answers = steps, credit, journal, answers
        self._by_actor: dict[int, ActorSession] = {}
        self._by_route: dict[bytes, ActorSession] = {}
        self._unrecorded: dict[int, ActorSession] = {}  # by actor id, sessions with counts that the log does not have
        self.members: Mapping[int, tuple[int, bool]] = {}
        self.block_bytes = 0
        self.schema: RunSchema | None = None
        self.duplicates = self.forgotten = 0

    def restore(self) -> None:
        """Continue where an earlier server stopped."""
        state = self._journal.state
        if state.schema is not None:
            self.describe(RunSchema.from_dict(state.schema))
        for actor, account in state.accounts.items():
            self._by_actor[actor] = ActorSession(actor, account, b"", held=account.next, strikes=account.strikes)
        self._resize()
        for session in self:
            self._credit.want(session)

    def describe(self, schema: RunSchema) -> None:
        """Set the run's schema, and with it the cost of a trajectory."""
        self.schema, self._answers.row_bytes = schema, schema.row_bytes(self._steps)

    def __iter__(self) -> Iterator[ActorSession]:
        """The newest session of each actor."""
        return iter(self._by_actor.values())

    @property
    def totals(self) -> ActorTotals:
        """The sums over all sessions of this run."""
        past, accounts = self._journal.state.ledger, [session.account for session in self]
        return ActorTotals(
            past.past_produced + sum(account.produced for account in accounts),
            past.past_evicted + sum(account.evicted for account in accounts),
            sum(session.account.missing for session in self if session.open),
            past.past_unsent + sum(session.account.missing for session in self if not session.open),
        )

    def find(self, actor_id: int) -> ActorSession | None:
        """Return an actor's newest session."""
        return self._by_actor.get(actor_id)

    def at(self, route: bytes) -> ActorSession | None:
        """Return the session that last used a connection."""
        return self._by_route.get(route)

    def move(self, session: ActorSession, route: bytes) -> None:
        """Note the connection that a session uses now."""
        self._by_route.pop(session.route, None)
        session.route, self._by_route[route] = route, session

    def report(self, session: ActorSession, produced: int, evicted: int) -> None:
        """Update the counts that an actor sent."""
        account = session.account
        before = account.produced, account.evicted
        account.report(produced, evicted)
        if before != (account.produced, account.evicted):
            self._unrecorded[session.actor_id] = session
            self.record_counts()

    def record_counts(self) -> None:
        """Record actors' counts. Nothing is recorded on a full disk; later, one record per actor is enough."""
        if self._journal.stalled:
            return
        for actor, session in self._unrecorded.items():
            self._journal.record("reported", actor, session.account.produced, session.account.evicted)
        self._unrecorded.clear()

    def forget(self, session: ActorSession, upto: int) -> None:
        """Count trajectories as lost that an earlier server acknowledged and this one does not have."""
        self.forgotten += upto - session.next
        self._journal.record("forgot", session.actor_id, upto)
        session.held = upto

    def open(self, route: bytes, hello: messages.DataHello) -> ActorSession:
        """Start a session. Messages of the actor's former session are rejected from now on."""
        former = self._by_actor.get(hello.actor_id)
        if former is not None:
            self.end(former)
            self._answers.drop(former)
            self._by_route.pop(former.route, None)
            if self._unrecorded.pop(former.actor_id, None):  # recorded now, because the next record replaces its account
                self._journal.record("reported", former.actor_id, former.account.produced, former.account.evicted)
        self._journal.record("opened", hello.actor_id, hello.incarnation, hello.rows)
        session = ActorSession(hello.actor_id, self._journal.state.accounts[hello.actor_id], route)
        session.pace = session.pace if former is None else former.pace  # probably as fast as the process before it
        incarnation, alive = self.members.get(hello.actor_id, (-1, True))
        session.alive = alive or incarnation != hello.incarnation
        self._by_actor[hello.actor_id] = session
        self._resize()
        self._credit.want(session)
        return session

    def _resize(self) -> None:
        row_bytes = self._answers.row_bytes
        self._credit.resize(self, row_bytes)
        self.block_bytes = row_bytes * max((session.rows for session in self if session.open), default=1)

    def strike(self, session: ActorSession) -> None:
        """Count a bad message of a session; the third one ends it."""
        session.strikes += 1
        if session.strikes >= MAX_STRIKES:
            self.end(session)
            self._answers.turn_away(session, session.route)

    def end(self, session: ActorSession) -> None:
        """End a session; its credit is free again."""
        if not session.ended:
            self._journal.record("ended", session.actor_id, session.strikes)
        self._credit.take_back(session)
        self._resize()

    def apply_members(self, members: Mapping[int, tuple[int, bool]]) -> None:
        """Apply the hub's table of members.

        Args:
            members: by actor id, the newest incarnation and whether the hub receives its
                heartbeats. An actor that is not listed joined after the table was made.
        """
        self.members = members
        for session in list(self):
            incarnation, alive = members.get(session.actor_id, (-1, True))
            if incarnation > session.incarnation and not session.ended:
                detail = f"incarnation {incarnation} of actor {session.actor_id} has joined"
                self._answers.reject(session.route, "fenced", detail)
                self.end(session)
            elif incarnation == session.incarnation and alive != session.alive:
                session.alive = alive
                if not alive:
                    self._credit.take_back(session)
                self._resize()
                self._credit.want(session)
