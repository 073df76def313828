"""The machines that `oatmill join` adds to a run: the numbers of their actors, and how many each should run.

The target number of actors is that of the whole run. A machine that joins adds its actors to it, and takes them along when it
leaves. A new target is divided: the machines come first, in the order in which they joined, each up to its own limit, and the
rest is left to the run's own engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from protocol.wire.deadlines import DEAD_AFTER_S, LOST_AFTER_S
from protocol.wire.version import versions
from replay.hub.member import Member, RefusedError

MAX_ACTORS = 10_000
"""Actor ids are below it, so that the table of members fits into one message."""
MAX_NAME = 64


class Machines:
    """The machines of a run.

    Attributes:
        own: the target number of actors that run on no machine that has joined.
        joined: the machines, in the order in which they joined.
        settings: the settings that their actors need (`oatmill.settings.flat.acting_config`).
    """

    def __init__(self) -> None:
        self.own = 0
        self.joined: tuple[Member, ...] = ()
        self.settings: Mapping[str, Any] = {}

    @property
    def target(self) -> int:
        """The target number of actors of the whole run."""
        return self.own + sum(machine.share for machine in self.joined)

    def target_of(self, member: Member) -> int:
        """The target number of actors that a member is told: a machine's own share, or that of the whole run."""
        return member.share if member.role == "machine" else self.target

    def facts(self, member: Member) -> dict[str, Any]:
        """Return what only a machine is told when it joins."""
        return {"settings": dict(self.settings)} if member.role == "machine" else {}

    def admit(self, machine: Member, first: int, description: Mapping[str, Any], actors: Mapping[int, Member]) -> None:
        """Add a machine, and set its numbers and its share.

        Args:
            machine: the machine.
            first: the lowest of its actors' numbers, if another hub gave it to this machine; -1 for a new machine.
            description: its description of itself: versions, name, the largest number of its actors, and its share.
            actors: the run's actors, by number.

        Raises:
            RefusedError: if it has another version of oatmill, or there are not enough numbers.
        """
        check_versions(description.get("versions"))
        count, share = description.get("actors"), description.get("share")
        if type(count) is not int or not 1 <= count <= MAX_ACTORS:
            raise RefusedError("request", f"expected 'actors' from 1 to {MAX_ACTORS}, got {str(count)[:40]}")
        machine.count = count
        machine.share = share if type(share) is int and 0 <= share < count else count
        machine.name = shown_name(description.get("name"))
        machine.actor_id = self._first(count, actors) if first < 0 else first
        if any(self.has(number) for number in numbers_of(machine)):
            raise RefusedError("fenced", "another machine has this one's actor numbers by now; join again")
        if machine.actor_id + count > MAX_ACTORS:
            raise RefusedError(
                "request", f"expected actor numbers below {MAX_ACTORS}; there are not {count} free ones in a row"
            )
        self.joined += (machine,)

    def _first(self, count: int, actors: Mapping[int, Member]) -> int:
        """The lowest number above all that the run's own engine may use now, with `count` free numbers from it on."""
        first = number = self.own + sum(machine.count for machine in self.joined)
        while number < first + count and number < MAX_ACTORS:
            taken = number in actors and not actors[number].left
            number += 1
            if taken or self.has(number - 1):
                first = number
        return first

    def remove(self, machine: Member) -> None:
        """Remove a machine that has left. Its share leaves the target with it."""
        self.joined = tuple(other for other in self.joined if other is not machine)

    def drop_lost(self, now: float, connected: Callable[[Member], bool]) -> list[Member]:
        """Remove and return the machines that have been silent for too long. They may join again."""
        lost = [
            machine
            for machine in self.joined
            if now - machine.heard > LOST_AFTER_S or (now - machine.heard > DEAD_AFTER_S and not connected(machine))
        ]
        for machine in lost:
            self.remove(machine)
        return lost

    def scale(self, body: Mapping[str, Any]) -> None:
        """Handle an operator's target: `actors` of the whole run, or `own_actors`, which leaves the machines as they are.

        The run's supervisor tells a new hub the latter; the machines tell it their shares when they join again.

        Raises:
            RefusedError: if it is not a number of actors.
        """
        name = "own_actors" if "own_actors" in body else "actors"
        actors = body.get(name)
        if type(actors) is not int or not 0 <= actors <= MAX_ACTORS:
            raise RefusedError("request", f"expected {name!r} from 0 to {MAX_ACTORS}, got {actors!r}")
        if name == "actors":
            self.divide(actors)
        else:
            self.own = actors

    def divide(self, actors: int) -> None:
        """Divide a target number of actors among the machines and the run's own engine."""
        for machine in self.joined:
            machine.share = min(actors, machine.count)
            actors -= machine.share
        self.own = actors

    def has(self, number: int) -> bool:
        """Whether an actor's number belongs to a machine."""
        return any(number in numbers_of(machine) for machine in self.joined)

    def status(self) -> dict[str, Any]:
        """Return the targets and the machines as plain values, for `oatmill status` and for the run's own engine."""
        machines = [
            {"name": machine.name, "first": machine.actor_id, "actors": machine.count, "share": machine.share}
            for machine in self.joined
        ]
        return {"desired_actors": self.target, "own_actors": self.own, "machines": machines}


def numbers_of(machine: Member) -> range:
    """The numbers of a machine's actors."""
    return range(machine.actor_id, machine.actor_id + machine.count)


def check_versions(theirs: Any) -> None:
    """Raise a RefusedError if a machine has another version of oatmill, or of its messages."""
    ours = versions()
    if theirs != ours:
        got = theirs if isinstance(theirs, dict) else {}
        words = [f"oatmill {str(side.get('oatmill'))[:20]} (messages {str(side.get('messages'))[:20]})" for side in (ours, got)]
        raise RefusedError("version", f"the run has {words[0]}, this machine has {words[1]}; install the same on both")


def shown_name(name: Any) -> str:
    """A host name that can be shown on a terminal."""
    return "".join(character for character in str(name) if character.isprintable())[:MAX_NAME]
