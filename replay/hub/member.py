"""One member of a run, and the error for a process that may not become one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from protocol.security.users import ANYBODY, User


class RefusedError(Exception):
    """A process is not allowed to join.

    Attributes:
        reason: one of protocol.wire.reasons.REFUSALS.
        detail: what differs, or is missing.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


@dataclass(slots=True, eq=False)
class Member:
    """One process that has joined."""

    role: str
    actor_id: int  # -1 for other roles; of a machine the lowest of its actors
    incarnation: int
    token: str
    route: bytes
    joined: float
    heard: float
    user: User = ANYBODY  # the owner of the key that it joined with
    rows: int = 0
    stream: str = ""  # a name for the first observations of an actor's environments; empty where they tell nothing
    count: int = 0  # a machine: it runs at most this many actors, whose numbers begin at actor_id
    share: int = 0  # a machine: it should run this many of them now
    name: str = ""  # a machine's host name
    report: dict[str, Any] = field(default_factory=dict)
    cpu_milliseconds: int = -1  # an actor: what it last reported
    alive: bool = True
    left: bool = False  # whether it sent BYE or was replaced
