"""The state machine of a process on the control socket: joining, heartbeats, an operator's requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from oatmill.errors import WireError
from protocol.data.run_schema import read_spaces, read_statistics
from protocol.data.spaces import Spaces
from protocol.security.keys import ClientKeys
from protocol.wire import messages
from protocol.wire.codec import Buffer, Frames, decode, encode, from_json, to_json
from protocol.wire.deadlines import GOODBYE_WITHIN_S, HEARTBEAT_EVERY_S, LOST_AFTER_S, RETRY_EVERY_S

Role = Literal["actor", "machine", "learner", "ingest", "operator"]
RequestKind = Literal["status", "scale", "stop"]

FINAL_REASONS = {"fenced", "forgotten", "revoked", "identity"}
"""The reasons for which the hub rejects a process that has joined: another process has its place,
or its key was revoked."""

_REQUESTS: dict[RequestKind, type[messages.Status | messages.Scale | messages.Stop]] = {
    "status": messages.Status,
    "scale": messages.Scale,
    "stop": messages.Stop,
}


@dataclass(frozen=True)
class Welcome:
    """The hub's answer to a process that joins."""

    actor_id: int  # -1 for the learner and ingest; for a machine the lowest number of its actors
    incarnation: int  # grows by one with every process that joins with this actor id
    endpoints: Mapping[str, str]  # addresses of data, batches and weights
    spaces: Spaces | None  # None until the first actor has joined
    episode_statistics: tuple[str, ...]
    policy_version: int  # the highest version ever seen in this run; -1 if none
    encoder: str | None = None  # the learner's agent.encoder, where `auto` is left to its device; None until it has joined
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)  # what a machine's actors need; not validated
    session: str = field(default="", repr=False)  # a secret that proves to the other sockets that this process has joined
    keys: ClientKeys | None = None  # the keys for all sockets


@dataclass(frozen=True)
class ControlState:
    """The newest state that the hub has sent."""

    policy_version: int = -1  # the newest version that the hub has
    stop: bool = False  # whether the run ends: finish and leave
    desired_actors: int = 0  # the target number of actors; for a machine, its own share
    fenced: bool = False  # whether this process was replaced or its key was revoked: leave at once


class ControlPeer:
    """One process that talks to the hub.

    Attributes:
        description: what the hub is told of this process when it joins, also when it joins again.
        answer: the answer to the last request; None until it arrives.
        welcome: the hub's answer when it accepted this process; None before that.
        state: the newest state that the hub has sent.
        refusal: the reason why the hub rejected this process or its last request, as (reason,
            detail).
        news: JSON values that came with the state (for ingest: the table of members).
        report_asked: the highest report number that the hub has asked for (ingest only); 0 before
            the first.
        said_goodbye: whether the hub has answered the BYE.
        rejoined: how often this process has joined again because the hub was replaced.
    """

    def __init__(
        self,
        *,
        role: Role,
        description: Mapping[str, Any],
        actor_id: int | None,
        token: str,
        heartbeat_every_s: float = HEARTBEAT_EVERY_S,
    ) -> None:
        self._hello = messages.Hello(role, -1 if actor_id is None else actor_id, token, -1)
        self.description, self._token, self._every_s = dict(description), token, heartbeat_every_s
        self._joining = False
        self._asked_at: float | None = None  # the time of the first question that was not answered
        self._sent_at = self._reported_at = -float("inf")
        self._report: Mapping[str, Any] | None = None
        self._request: Frames | None = None
        self._request_number = 0
        self._leaving = False
        self.answer: dict[str, Any] | None = None
        self.welcome: Welcome | None = None
        self.state = ControlState()
        self.refusal: tuple[str, str] | None = None
        self.news: dict[str, Any] = {}
        self.report_asked = 0
        self.said_goodbye = False
        self.rejoined = 0

    def join(self) -> None:
        """Ask to join until the hub answers. Asking again refreshes `welcome`."""
        self._joining, self.welcome = True, None
        self._sent_at = -float("inf")

    def heartbeat(self, report: Mapping[str, Any], now: float, *, force: bool = False) -> None:
        """Send a report, if one is due."""
        if force or now - self._reported_at >= self._every_s:
            self._report = report

    def ask(self, kind: RequestKind, body: Mapping[str, Any]) -> None:
        """Send an operator's request. It is repeated until there is an `answer` or a `refusal`."""
        self._request_number += 1
        self.answer, self.refusal = None, None
        self._request = encode(_REQUESTS[kind](self._request_number), to_json(body))
        self._sent_at = -float("inf")

    def leave(self) -> None:
        """Send BYE from now on."""
        self._leaving, self._sent_at = True, -float("inf")

    def lost(self, now: float) -> bool:
        """Whether the hub has not answered a question for too long."""
        return self._asked_at is not None and now - self._asked_at > LOST_AFTER_S

    def send(self, now: float) -> list[Frames]:
        """Return the messages to send now."""
        frames = self._next(now)
        if frames is None:
            return []
        self._sent_at = now
        if frames is not self._request:  # a request does not say that this process makes progress
            self._reported_at = now
        self._asked_at = now if self._asked_at is None else self._asked_at
        return [frames]

    def _next(self, now: float) -> Frames | None:
        waited = now - self._sent_at
        if self._leaving:
            due = not self.said_goodbye and waited >= GOODBYE_WITHIN_S
            return encode(messages.Bye(self._token)) if due else None
        if self._joining and waited >= RETRY_EVERY_S:
            return encode(self._hello, to_json(self.description))
        if self._request is not None and waited >= RETRY_EVERY_S:
            return self._request
        if self._report is not None and not self._joining:
            report, self._report = self._report, None
            return encode(messages.Heartbeat(self._token), to_json(report))
        return None

    def receive(self, header: Buffer, payload: Buffer, _now: float) -> None:
        """Handle one message.

        Raises:
            WireError: if the hub never sends such a message.
        """
        message: messages.ControlToClient = decode(header, messages.CONTROL_TO_CLIENT)
        self._asked_at = None
        match message:
            case messages.HelloAccepted():
                self._let_in(message, from_json(payload))
            case messages.HubState():
                self._take_state(message, payload)
            case messages.Reject():
                self._turn_away(message)
            case messages.Bye():
                self.said_goodbye = message.token == self._token
            case _:
                self._take_answer(message, payload)

    def _let_in(self, message: messages.HelloAccepted, values: dict[str, Any]) -> None:
        endpoints, spaces = values.get("endpoints"), values.get("spaces")
        if not isinstance(endpoints, dict) or not all(isinstance(url, str) for url in endpoints.values()):
            raise WireError("payload_json", "expected endpoints to map names to addresses")
        encoder = values.get("encoder")
        if not isinstance(encoder, str | None):
            raise WireError("payload_json", f"expected encoder to be a name or null, got {type(encoder).__name__}")
        settings = values.get("settings", {})
        if not isinstance(settings, dict):
            raise WireError("payload_json", f"expected settings to be an object, got {type(settings).__name__}")
        self.rejoined += self.welcome is not None
        self.welcome = Welcome(
            message.actor_id,
            message.incarnation,
            endpoints,
            None if spaces is None else read_spaces(spaces),
            read_statistics(values),
            message.policy_version,
            encoder,
            settings,
            self._token,
        )
        self._joining = False

    def _take_state(self, message: messages.HubState, payload: Buffer) -> None:
        fenced = message.fenced or self.state.fenced
        self.state = ControlState(message.policy_version, message.stop, message.desired_actors, fenced)
        self.report_asked = max(self.report_asked, message.report_asked)
        self.news |= from_json(payload)

    def _turn_away(self, message: messages.Reject) -> None:
        if message.reason == "forgotten" and self.welcome is not None:
            self._rejoin(self.welcome)
            return
        self.refusal = (message.reason, message.detail)
        self._request = None
        if message.reason in FINAL_REASONS or (self._joining and self.welcome is not None):
            self.state = ControlState(self.state.policy_version, self.state.stop, self.state.desired_actors, fenced=True)

    def _rejoin(self, welcome: Welcome) -> None:
        """Ask a hub that replaced another one to accept this process under the same id and incarnation."""
        if self._joining or self._leaving:
            return
        self._hello = replace(self._hello, actor_id=welcome.actor_id, incarnation=welcome.incarnation)
        self._joining, self._sent_at = True, -float("inf")

    def _take_answer(self, message: messages.Status | messages.Scale | messages.Stop, payload: Buffer) -> None:
        if message.request == self._request_number and self._request is not None:
            self.answer, self._request = from_json(payload), None
