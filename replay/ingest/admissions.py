"""Who may speak as which actor or learner rank at ingest. The hub has accepted them and sends their sessions.

A process that joins draws a secret, sends it to the hub in its HELLO, and shows it at every other socket. Otherwise anyone who
can connect and knows an actor's number could end its session, take its place or have it struck out.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import NamedTuple

from oatmill.errors import WireError
from protocol.security.users import UnauthorisedError, User


class Admitted(NamedTuple):
    """The newest process in one place."""

    incarnation: int
    session: str
    user: str  # the name of its key; empty on a server without keys


class Admissions:
    """The hub's table of sessions, as ingest knows it."""

    def __init__(self) -> None:
        self._actors: dict[int, Admitted] = {}
        self._ranks: dict[int, Admitted] = {}

    def tell(self, sessions: Mapping[str, Mapping[str, tuple[int, str, str]]]) -> None:
        """Replace the table with the hub's: incarnation, session and user by actor id (`actors`) and by rank (`ranks`)."""
        self._actors = {int(number): Admitted(*entry) for number, entry in sessions["actors"].items()}
        self._ranks = {int(number): Admitted(*entry) for number, entry in sessions["ranks"].items()}

    def is_newer(self, actor_id: int, incarnation: int) -> bool:
        """Whether the hub has not sent this incarnation: either it will, or there is none."""
        entry = self._actors.get(actor_id)
        return entry is None or incarnation > entry.incarnation

    def check_actor(self, actor_id: int, incarnation: int, session: str, user: User) -> None:
        """Let nobody speak as an actor's newest incarnation but the process itself.

        Raises:
            UnauthorisedError: `identity`.
        """
        entry = self._actors.get(actor_id)
        if entry is not None and incarnation == entry.incarnation and not _same(entry, session, user):
            raise UnauthorisedError("identity", f"actor {actor_id} incarnation {incarnation} is another process")

    def check_rank(self, rank: int, incarnation: int, session: str, user: User) -> None:
        """Let nobody speak as a learner's rank but the newest process that joined as it.

        Raises:
            WireError: `unknown_session` if the hub has not sent it: either it will, or there is none.
            UnauthorisedError: `identity` if it was replaced, or is another one.
        """
        entry = self._ranks.get(rank)
        if entry is None or incarnation > entry.incarnation:
            raise WireError("unknown_session", f"rank {rank} incarnation {incarnation}")
        if incarnation < entry.incarnation:
            raise UnauthorisedError("identity", f"another process has taken the place of rank {rank}")
        if not _same(entry, session, user):
            raise UnauthorisedError("identity", f"rank {rank} is another process")


def _same(entry: Admitted, session: str, user: User) -> bool:
    return hmac.compare_digest(entry.session.encode(), session.encode()) and entry.user == user.name
