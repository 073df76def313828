"""CPU time and memory of all actors together, from their heartbeats."""

from __future__ import annotations

from collections.abc import Iterable

from replay.hub.member import Member


class ActorResources:
    """Adds up what actors report.

    Attributes:
        cpu_milliseconds: the CPU time of all actors since each one's first heartbeat to this hub, so that actors that return
            to a hub that was restarted do not add the time before. It never falls.
    """

    def __init__(self) -> None:
        self.cpu_milliseconds = 0

    def note(self, member: Member) -> None:
        """Take the newest report of a member."""
        used = member.report.get("cpu_milliseconds")
        if member.role == "actor" and used is not None:
            self.cpu_milliseconds += max(0, used - member.cpu_milliseconds) if member.cpu_milliseconds >= 0 else 0
            member.cpu_milliseconds = used

    def quantities(self, actors: Iterable[Member]) -> dict[str, float]:
        """Return the quantities of `oatmill.process.metrics`, for all actors as if they were one process."""
        memory = sum(actor.report.get("resident_memory_bytes", 0) for actor in actors if actor.alive)
        return {"cpu_seconds": self.cpu_milliseconds / 1000, "resident_memory_bytes": memory}
