"""A hub without sockets, and what it says to whom."""

from __future__ import annotations

from typing import Any

from protocol.wire import messages
from protocol.wire.codec import decode, encode, from_json, to_json
from replay.hub.core import HubCore
from replay.hub.members import Members
from tests.replay.blocks import SPACES

CONFIG = {"env.id": "Toy-v0"}
SETTINGS = {"env": {"kind": "gymnasium", "id": "Toy-v0"}}
ACTOR = {"config": CONFIG, "spaces": SPACES.to_dict(), "episode_statistics": ["hearts"], "rows": 4}


class Talk:
    """The hub, with ingest joined, and what it says to whom."""

    def __init__(self, *, connected: bool = False) -> None:
        members = Members(CONFIG, "s", connected=lambda _member: connected)
        members.machines.settings = SETTINGS
        self.hub = HubCore(members, desired_actors=2, weights_endpoint="ipc:///w")
        self.now = 0.0
        self.ingest = {"secret": "s", "data": "ipc:///d", "batches": "ipc:///b"}

    def begin(self) -> Talk:
        self.say("i", messages.Hello("ingest", -1, "i", -1), self.ingest)
        self.report()
        return self

    def report(self, answering: int = 0, serial: int = 0, **report: Any) -> list[tuple[str, Any, Any]]:
        """Ingest's heartbeat."""
        return self.say("i", messages.Heartbeat("i"), {"report": report, "answering": answering, "serial": serial})

    def say(self, who: str, message: Any, values: dict[str, Any] | None = None) -> list[tuple[str, Any, Any]]:
        """A message, and what the hub then sends as (to whom, message, JSON)."""
        self.hub.receive_control(who.encode(), encode(message)[0], to_json(values or {}), self.now)
        return self.sent()

    def sent(self) -> list[tuple[str, Any, Any]]:
        return [
            (route.decode(), decode(header, messages.CONTROL_TO_CLIENT), from_json(payload) if payload else {})
            for route, (header, payload) in self.hub.outgoing_control()
        ]

    def actor(self, token: str = "a", number: int = -1) -> list[tuple[str, Any, Any]]:
        return self.say(token, messages.Hello("actor", number, token, -1), ACTOR)
