"""Outgoing messages, from ingest to actors: acknowledgements with new credit, WELCOME, BYE and REJECT.

An acknowledgement waits until the log contains the blocks that it covers. Each actor gets at most one
acknowledgement per turn.
"""

from __future__ import annotations

from protocol.wire import messages
from protocol.wire.codec import Frames, encode, shortened
from replay.ingest.actors.session import ActorSession

MAX_STRIKES = 3
"""An actor is rejected after this many bad messages. Its next incarnation starts again from zero."""


class OutgoingMessages:
    """The messages to actors that are sent next.

    Args:
        server: a number that no other ingest process has.

    Attributes:
        row_bytes: the bytes of credit that one trajectory costs; 0 before the first actor.
    """

    def __init__(self, server: int) -> None:
        self._server, self.row_bytes = server, 0
        self._due: dict[int, tuple[ActorSession, bool]] = {}  # by actor id, and whether to resend
        self._unheld: dict[int, ActorSession] = {}  # by actor id, sessions with blocks that the log does not contain yet
        self._outgoing: list[tuple[bytes, Frames]] = []

    def add(self, session: ActorSession, *, resend: bool = False) -> None:
        """Acknowledge a session in this turn.

        Args:
            session: the actor's session.
            resend: whether the actor must start again from the first block that is not stored.
        """
        if resend:
            self._due[session.actor_id] = (session, True)
        else:
            self._due.setdefault(session.actor_id, (session, False))

    def stored(self, session: ActorSession) -> None:
        """Delay the acknowledgement of a session with a new block until `committed` is called."""
        self._unheld[session.actor_id] = session

    def committed(self) -> None:
        """Acknowledge everything stored so far. Call it when the log contains all of it."""
        for session in self._unheld.values():
            session.held = session.next
            self.add(session)
        self._unheld.clear()

    def drop(self, session: ActorSession) -> None:
        """Drop the acknowledgement of a session that another one replaces."""
        self._due.pop(session.actor_id, None)
        self._unheld.pop(session.actor_id, None)

    def say(self, route: bytes, message: messages.DataToActor) -> None:
        """Send a message."""
        self._outgoing.append((route, encode(message)))

    def reject(self, route: bytes, reason: str, detail: str) -> None:
        """Send a REJECT."""
        self.say(route, messages.Reject(reason, shortened(detail)))

    def turn_away(self, session: ActorSession, route: bytes) -> None:
        """Send a REJECT that says why a session has ended."""
        if session.strikes >= MAX_STRIKES:
            detail = f"{session.strikes} bad messages; see oatmill_rejected_total for their reasons"
            self.reject(route, "strikes", detail)
        else:
            detail = f"actor {session.actor_id} incarnation {session.incarnation} has left or was replaced"
            self.reject(route, "fenced", detail)

    def welcome(self, session: ActorSession, version: int) -> None:
        """Answer a HELLO.

        Args:
            session: the actor's session.
            version: the newest policy version.
        """
        session.serial += 1
        credit = session.credit * self.row_bytes
        self.say(
            session.route,
            messages.DataWelcome(
                session.incarnation, self._server, session.serial, session.held, credit, self.row_bytes, version
            ),
        )

    def outgoing(self, version: int) -> list[tuple[bytes, Frames]]:
        """Return everything that may be sent now, by connection.

        Args:
            version: the newest policy version.
        """
        for session, resend in self._due.values():
            if not session.ended and session.actor_id not in self._unheld:
                self._outgoing.append((session.route, self._ack(session, version, resend=resend)))
        self._due = {actor: due for actor, due in self._due.items() if actor in self._unheld}
        # After a restart of the server, a session has no route until its actor sends a message.
        outgoing, self._outgoing = [entry for entry in self._outgoing if entry[0]], []
        return outgoing

    def _ack(self, session: ActorSession, version: int, *, resend: bool) -> Frames:
        session.serial += 1
        credit = session.credit * self.row_bytes
        return encode(messages.Ack(session.incarnation, self._server, session.serial, session.held, credit, version, resend))
