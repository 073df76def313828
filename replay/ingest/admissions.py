"""Decides which process may send messages as which actor or learner rank.

A process that joins creates a secret, sends it to the hub in its HELLO, and repeats it to every other
socket. The hub tells ingest the secrets of the processes that it has accepted. Without this, anyone
who can connect and knows an actor's number could end its session, take its place, or get it rejected.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import NamedTuple

from oatmill.errors import WireError
from protocol.security.users import UnauthorisedError, User


class Admitted(NamedTuple):
    """The newest process that joined as an actor or rank."""

    incarnation: int
    session: str
    user: str  # the name of its key; empty on a server without keys


class Admissions:
    """Ingest's copy of the hub's table of sessions."""

    def __init__(self) -> None:
        self._actors: dict[int, Admitted] = {}
        self._ranks: dict[int, Admitted] = {}

    def tell(self, sessions: Mapping[str, Mapping[str, tuple[int, str, str]]]) -> None:
        """Replace the table: incarnation, session and user by actor id (`actors`) and by rank (`ranks`)."""
        self._actors = {int(number): Admitted(*entry) for number, entry in sessions["actors"].items()}
        self._ranks = {int(number): Admitted(*entry) for number, entry in sessions["ranks"].items()}

    def is_newer(self, actor_id: int, incarnation: int) -> bool:
        """Whether the hub has not sent this incarnation: its message is on the way, or there is no such incarnation."""
        entry = self._actors.get(actor_id)
        return entry is None or incarnation > entry.incarnation

    def check_actor(self, actor_id: int, incarnation: int, session: str, user: User) -> None:
        """Check that a process that claims to be the newest incarnation of an actor really is it.

        Raises:
            UnauthorisedError: `identity` if it is another process.
        """
        entry = self._actors.get(actor_id)
        if entry is not None and incarnation == entry.incarnation and not _same(entry, session, user):
            raise UnauthorisedError("identity", f"actor {actor_id} incarnation {incarnation} is another process")

    def check_rank(self, rank: int, incarnation: int, session: str, user: User) -> None:
        """Check that a process is the newest one that joined as a rank of the learner.

        Raises:
            WireError: `unknown_session` if the hub has not sent it: its message is on the way, or there is no such
                incarnation.
            UnauthorisedError: `identity` if it was replaced, or is another process.
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
