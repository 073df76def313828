"""The members of a run: actors by id and incarnation, learner ranks, ingest.

It knows who is alive, who was replaced, and what each member reports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from oatmill.errors import WireError
from oatmill.settings.flat import AUTO_ENCODERS, ENCODER, first_difference, flatten_settings
from protocol.data.run_schema import read_spaces, read_statistics
from protocol.security.users import ANYBODY, UnauthorisedError, User, require
from protocol.wire import messages
from protocol.wire.deadlines import DEAD_AFTER_S, LOST_AFTER_S
from replay.hub.machines import MAX_ACTORS, Machines
from replay.hub.member import Member, RefusedError

MAX_DEPARTED = 10_000
"""The number of processes that have left and are remembered, to recognise a late HELLO."""

MAX_INCARNATION = 2**31
MAX_RANKS = 4096

MAX_STREAM = 64
"""Characters of the name of an actor's first observations."""

ROLES = {"actor": "actor", "machine": "actor", "learner": "learner", "ingest": "server", "operator": "operator"}
"""The roles that a process may join as, and the role of the key that each requires."""


class Members:
    """The table of members.

    Args:
        config: the settings that all processes of the run must share
            (`oatmill.settings.flat.joining_config`).
        secret: the secret that ingest must send, so that no other process can pose as ingest.
        connected: returns whether a member's connection still exists.

    Attributes:
        spaces: the spaces of the first actor, as plain values; None before it has joined.
        episode_statistics: the episode statistics of the first actor.
        encoder: the run's `agent.encoder`. If that is `auto`, the learner's, which knows its device;
            None before it has joined.
        machines: the machines that run actors of this run, and their shares of the target number.
        serial: grows whenever a member joins, leaves, dies or returns.
        expired: the number of times that an actor stopped sending heartbeats.
        restarts: the number of actors that joined under an id that was used before.
    """

    def __init__(
        self, config: Mapping[str, Any], secret: str, connected: Callable[[Member], bool] = lambda _member: True
    ) -> None:
        self._config, self._secret, self._connected = config, secret, connected
        self._by_token: dict[str, Member] = {}
        self._actors: dict[int, Member] = {}  # the newest incarnation of each
        self._services: dict[str, Member] = {}  # learner ranks, as learner/RANK, and ingest
        self._departed: dict[str, None] = {}  # tokens of processes that left, the oldest first
        self.spaces: dict[str, Any] | None = None
        self.episode_statistics: tuple[str, ...] = ()
        self.encoder: str | None = None if config.get(ENCODER) == "auto" else config.get(ENCODER)
        self.machines = Machines()
        self.serial = self.expired = self.restarts = 0

    @property
    def actors(self) -> list[Member]:
        """The newest incarnation of each actor."""
        return list(self._actors.values())

    @property
    def live(self) -> int:
        """The number of actors that are alive."""
        return sum(member.alive for member in self._actors.values())

    @property
    def ingest(self) -> Member | None:
        """The ingest process; None before it has joined."""
        return self._services.get("ingest")

    @property
    def learner(self) -> Member | None:
        """Rank 0 of the learner; None before it has joined."""
        learner = self._services.get("learner/0")
        return None if learner is None or not learner.token else learner

    def facts(self) -> dict[str, Any]:
        """Return what a process that joins is told of the run."""
        return {"spaces": self.spaces, "episode_statistics": self.episode_statistics, "encoder": self.encoder}

    def everyone(self) -> Iterator[Member]:
        """Yield all members that have joined and not left."""
        yield from (member for member in self._by_token.values() if not member.left)

    def table(self) -> dict[str, Any]:
        """Return the table of actors for ingest: by id, the newest incarnation and whether it is alive."""
        return {str(number): [member.incarnation, member.alive] for number, member in self._actors.items()}

    def sessions(self) -> dict[str, Any]:
        """Return the sessions of actors and ranks for ingest: incarnation, token and the name of the key."""
        ranks = {name.partition("/")[2]: member for name, member in self._services.items() if member.role == "learner"}
        actors = {str(number): member for number, member in self._actors.items()}
        return {
            kind: {key: [member.incarnation, member.token, member.user.name] for key, member in found.items() if member.token}
            for kind, found in (("actors", actors), ("ranks", ranks))
        }

    def join(
        self, route: bytes, hello: messages.Hello, description: dict[str, Any], now: float, user: User = ANYBODY
    ) -> tuple[Member, Member | None]:
        """Add a process, or find it again if its HELLO is a repetition.

        Returns:
            The member, and the member that it replaces.

        Raises:
            RefusedError: if it does not fit this run.
            UnauthorisedError: if its key belongs to another role, or its place is taken by a
                process that works.
            WireError: if its description is malformed.
        """
        if hello.role not in ROLES:
            raise WireError("header_fields", f"expected a role of {', '.join(ROLES)}, got {hello.role[:40]!r}")
        require(user, ROLES[hello.role])
        if hello.token in self._departed:  # a late HELLO: accepting it would replace its own successor
            raise RefusedError("fenced", "this process has left or was replaced; start a new one")
        known = self._member(hello.token, user)
        if known is not None:
            known.route, known.heard = route, now
            return known, None
        if not hello.token:
            raise WireError("header_fields", "expected a token, a different one for each process")
        if hello.role == "actor":
            return self._join_actor(route, hello, description, now, user)
        if hello.role == "machine":
            machine = Member("machine", -1, 1, hello.token, route, now, now, user)
            self.machines.admit(machine, hello.actor_id if hello.incarnation >= 0 else -1, description, self._actors)
            return self._by_token.setdefault(hello.token, machine), None
        return self._join_service(route, hello, description, now, user)

    def _member(self, token: str, user: User) -> Member | None:
        """Return the process with this token; None if there is none.

        Raises:
            UnauthorisedError: `identity` if it joined with another key.
        """
        member = self._by_token.get(token)
        if member is not None and member.user != user:
            raise UnauthorisedError("identity", f"this process joined with the key of {member.user.name}")
        return member

    def _check_vacant(self, place: str, former: Member | None, now: float) -> None:
        """Check that a place is not taken by a process that works: one that is heard and connected.

        A learner may be silent for as long as a learner step takes.
        """
        if former is None or former.left or former.role == "ingest" or not former.token:
            return  # a member without a token is only known from an earlier hub
        within = DEAD_AFTER_S if former.role == "actor" else LOST_AFTER_S
        if now - former.heard <= within and self._connected(former):
            raise UnauthorisedError(
                "identity", f"{place} is part of the run and active; stop that process first, or choose another number"
            )

    def _join_actor(
        self, route: bytes, hello: messages.Hello, description: dict[str, Any], now: float, user: User
    ) -> tuple[Member, Member | None]:
        checked_config(self._config, description)
        self._check_spaces(description)
        number = hello.actor_id if hello.actor_id >= 0 else free_number(self._actors, self.machines)
        if number >= MAX_ACTORS:
            raise RefusedError("request", f"expected an actor id below {MAX_ACTORS}, got {number}")
        former = self._actors.get(number)
        self._check_vacant(f"actor {number}", former, now)
        rows = description.get("rows")
        stream = str(description.get("stream", ""))[:MAX_STREAM]
        member = Member("actor", number, 1, hello.token, route, now, now, user, rows if type(rows) is int else 0, stream)
        if hello.incarnation >= 0:
            member.incarnation, former = _as_before(hello, former), None
        elif former is not None:
            member.incarnation = former.incarnation + 1
            self.restarts += 1
            self._leave(former)
        self._actors[number] = self._by_token[hello.token] = member
        self.serial += 1
        return member, former

    def _check_spaces(self, description: dict[str, Any]) -> None:
        spaces, statistics = read_spaces(description.get("spaces")).to_dict(), read_statistics(description)
        if self.spaces is None:
            self.spaces, self.episode_statistics = spaces, statistics
        elif difference := first_difference(flatten_settings(self.spaces), flatten_settings(spaces)):
            raise RefusedError("spaces", difference)
        elif statistics != self.episode_statistics:
            detail = f"the run has {self.episode_statistics}, this process has {statistics}"
            raise RefusedError("spaces", f"episode statistics: {detail}")

    def _join_service(
        self, route: bytes, hello: messages.Hello, description: dict[str, Any], now: float, user: User
    ) -> tuple[Member, Member | None]:
        name, encoder = hello.role, self.encoder
        if name == "ingest" and description.get("secret") != self._secret:
            raise RefusedError("description", "only the process that the hub has started can join as ingest")
        if name == "learner":
            encoder = checked_config(self._config, description, may_be_auto=("auto",)).get(ENCODER)
            rank = description.get("rank")
            if type(rank) is not int or not 0 <= rank < MAX_RANKS:
                raise RefusedError(
                    "description", f"expected the learner's 'rank' from 0 to {MAX_RANKS - 1}, got {str(rank)[:40]}"
                )
            name = f"learner/{rank}"
        former = self._services.get(name)
        self._check_vacant(f"the {name}", former, now)
        if hello.role == "learner":
            self.encoder = encoder
        member = Member(hello.role, -1, 0 if former is None else former.incarnation + 1, hello.token, route, now, now, user)
        if hello.incarnation >= 0:
            member.incarnation, former = _as_before(hello, former), None
        elif former is not None:
            self._leave(former)
        self._services[name] = self._by_token[hello.token] = member
        self.serial += name.startswith("learner")  # ingest must learn its session
        return member, former

    def expect(self, known: Mapping[str, Any], now: float) -> None:
        """Add members of an earlier hub; those that live will join again as the same members.

        Args:
            known: what ingest's log knows: {"actors": {id: [incarnation, whether it has left]},
                "ranks": {rank: incarnation}}.
            now: seconds of the monotonic clock. An actor that does not return in time is considered
                dead.
        """
        for number, (incarnation, left) in known.get("actors", {}).items():
            absent = Member("actor", int(number), incarnation, "", b"", now, now, alive=not left, left=left)
            if self._actors.setdefault(int(number), absent) is absent:
                self.serial += 1
        for rank, incarnation in known.get("ranks", {}).items():
            self._services.setdefault(f"learner/{rank}", Member("learner", -1, incarnation, "", b"", now, now, alive=False))

    def _leave(self, member: Member) -> None:
        if member.alive:
            self.serial += 1
        member.alive, member.left = False, True
        self._by_token.pop(member.token, None)
        self.machines.remove(member)
        self._departed[member.token] = None
        if len(self._departed) > MAX_DEPARTED:
            del self._departed[next(iter(self._departed))]

    def heard(self, route: bytes, token: str, report: dict[str, Any], now: float, user: User = ANYBODY) -> Member | None:
        """Handle a heartbeat; None if its sender has not joined the run or has left it.

        Raises:
            UnauthorisedError: `identity` if it joined with another key.
        """
        member = self._member(token, user)
        if member is None:
            return None
        member.route, member.heard, member.report = route, now, report
        if not member.alive:
            member.alive = True
            self.serial += 1
        return member

    def bye(self, token: str, user: User = ANYBODY) -> None:
        """Handle a BYE: the sender's actor id is free again. Raises the errors of `heard`."""
        member = self._member(token, user)
        if member is not None:
            self._leave(member)

    def expire(self, now: float) -> None:
        """Mark actors as dead that have been silent for too long, and forget such machines, which may join again."""
        for member in self._actors.values():
            if member.alive and now - member.heard > DEAD_AFTER_S:
                member.alive = False
                self.expired += 1
                self.serial += 1
        for machine in self.machines.drop_lost(now, self._connected):
            del self._by_token[machine.token]


def free_number(actors: Mapping[int, Member], machines: Machines) -> int:
    """Return the lowest number that no actor or machine has, or that an actor has given back with BYE."""
    number = 0
    while (number in actors and not actors[number].left) or machines.has(number):
        number += 1
    return number


def checked_config(
    expected: Mapping[str, Any], description: Mapping[str, Any], *, may_be_auto: tuple[str, ...] = AUTO_ENCODERS
) -> Mapping[str, Any]:
    """The settings of a process that joins.

    Args:
        expected: the run's settings.
        description: the process's description of itself.
        may_be_auto: the values of the run's `agent.encoder` for which it may have `auto` or `auto_cpu`.

    Raises:
        RefusedError: with the first setting that differs from the run's.
    """
    config = description.get("config")
    if not isinstance(config, dict):
        raise RefusedError("description", "expected the process's settings in 'config' (oatmill.settings.flat.joining_config)")
    if config.get(ENCODER) in AUTO_ENCODERS and expected.get(ENCODER) in may_be_auto:
        expected = {**expected, ENCODER: config[ENCODER]}
    difference = first_difference(expected, config)
    if difference is not None:
        raise RefusedError("config", difference)
    return config


def _as_before(hello: messages.Hello, known: Member | None) -> int:
    """Return the incarnation that another hub gave to a process, unless it was replaced meanwhile.

    Raises:
        RefusedError: if it was replaced.
    """
    taken = known is not None and (known.incarnation, known.token != "") > (hello.incarnation, False)
    if taken or hello.incarnation > MAX_INCARNATION:
        raise RefusedError("fenced", "another process has taken this one's place; start a new one")
    return hello.incarnation


def twin_of(member: Member, actors: Iterable[Member]) -> Member | None:
    """Another live actor whose environments began with exactly the same observations, despite another seed."""
    if not member.stream:
        return None
    return next((other for other in actors if other is not member and other.alive and other.stream == member.stream), None)
