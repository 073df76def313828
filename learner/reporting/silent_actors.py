"""Messages about actors that send no data (no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAX_NAMED = 20
SILENT_SHARE = 0.5
"""An actor is named if it has not used its credit for this fraction of the learner's wait."""


def silent_actors(status: Mapping[str, Any], waited_s: float) -> str:
    """Name the actors that are alive and may send, but have sent nothing; empty if there are none.

    Args:
        status: the hub's answer to `status`.
        waited_s: the seconds that the learner has waited.
    """
    if status.get("live") == 0:
        return "no actor is alive; "
    alive = (actor for actor in status.get("actors", ()) if actor["alive"])
    unused = {actor["actor_id"]: actor.get("credit_unused_seconds", 0.0) for actor in alive}
    named = [str(number) for number, seconds in sorted(unused.items()) if seconds >= SILENT_SHARE * waited_s]
    if not named:
        return ""
    more = f" and {len(named) - MAX_NAMED} more" if len(named) > MAX_NAMED else ""
    who = "actor" if len(named) == 1 else "actors"
    return f"{who} {', '.join(named[:MAX_NAMED])}{more} sent heartbeats but no trajectory; "


def silence(actor: str, seconds: float) -> str:
    """The message about one silent actor while others send data."""
    return f"actor {actor} sends heartbeats but no trajectory for {seconds:.0f} s, while others do; the run continues"
