"""The hub without its sockets: who is in the run, what is to be told to whom, and an operator's questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from protocol import messages
from protocol.codec import Buffer, Frames, decode, encode, from_json, shortened, to_json
from protocol.errors import WireError
from protocol.timing import LOST_AFTER_S
from replay.members import Member, Members, RefusedError
from replay.weights_store import WeightsStore

REPORT_WITHIN_S = 1.0
"""A question about the run waits this long for ingest's newest numbers, then the last ones must do."""
MAX_REPORT_BYTES = 64 * 1024
"""What an actor or a learner may say of itself in a heartbeat."""
MAX_DESIRED = 10_000
MAX_ACTORS_SHOWN = 1000

Request = messages.Status | messages.Scale | messages.Stop


@dataclass(frozen=True)
class Asked:
    """A question that waits for ingest's newest report."""

    route: bytes
    request: int
    report: int  # the number of the report that answers it
    deadline: float


class HubCore:
    """Control and weights.

    Args:
        members: the table of members.
        desired_actors: how many actors there shall be, to begin with.

    Attributes:
        stop: whether the run is to end.
        report: ingest's last report.
        reported_at: when it came, in seconds of the monotonic clock.
        endpoints: addresses of data, batches and weights; data and batches are ingest's to tell.
        rejected: bad messages by reason, the hub's own.
    """

    def __init__(self, members: Members, *, desired_actors: int, weights_endpoint: str) -> None:
        self.members, self.weights = members, WeightsStore()
        self._desired = desired_actors
        self._outgoing: list[tuple[bytes, Frames]] = []
        self._asked: list[Asked] = []
        self._report_number = 0
        self._told: tuple[Any, ...] = ()  # what ingest was told last
        self._highest_version = -1
        self.stop = False
        self.report: dict[str, Any] = {}
        self.reported_at = -float("inf")
        self.endpoints: dict[str, str] = {"weights": weights_endpoint}
        self.rejected: Counter[str] = Counter()

    @property
    def ready(self) -> bool:
        """Whether ingest has joined and reported, so that actors and learner can be let in."""
        return self.members.ingest is not None and self.reported_at >= 0

    @property
    def highest_version(self) -> int:
        """The highest policy version ever seen, held or not; a restarted learner goes on above it."""
        return max(self._highest_version, self.weights.version)

    def receive_control(self, route: bytes, header: Buffer, payload: Buffer, now: float) -> None:
        """Take in one message on the control socket; a bad one is counted and answered with its reason."""
        try:
            message: messages.ControlToHub = decode(header, messages.CONTROL_TO_HUB)
            match message:
                case messages.Hello():
                    self._hello(route, message, from_json(payload), now)
                case messages.Heartbeat():
                    self._heartbeat(route, message.token, payload, now)
                case messages.Bye():
                    self.members.bye(message.token)
                    self._outgoing.append((route, encode(message)))
                case _:
                    self._request(route, message, from_json(payload), now)
        except RefusedError as error:
            self._reject(route, error.reason, error.detail)
        except WireError as error:
            self.rejected[error.reason] += 1
            self._reject(route, error.reason, error.detail)

    def bad_frames(self, error: WireError) -> None:
        """Count a message that could not even be taken apart."""
        self.rejected[error.reason] += 1

    def receive_weights(self, route: bytes, header: Buffer, payload: Buffer, *, now: float, wall: float) -> None:
        """Take in one message on the weights socket."""
        self.weights.receive(route, header, payload, now=now, wall=wall)
        self.rejected.update(self.weights.refused)
        self.weights.refused.clear()

    def _reject(self, route: bytes, reason: str, detail: str) -> None:
        self._outgoing.append((route, encode(messages.Reject(reason, shortened(detail)))))

    def _hello(self, route: bytes, hello: messages.Hello, description: dict[str, Any], now: float) -> None:
        if hello.role != "ingest" and not self.ready:
            return  # it asks again in a second
        member, former = self.members.join(route, hello, description, now)
        if member.role == "ingest":
            self._take_endpoints(description)
        if former is not None:
            self._tell(former, fenced=True)
        self._tell_ingest()  # before the welcome, so that ingest knows an actor before the actor comes to it
        welcome = messages.HelloAccepted(member.actor_id, member.incarnation, self.highest_version)
        values = {
            "endpoints": self.endpoints,
            "spaces": self.members.spaces,
            "episode_statistics": self.members.episode_statistics,
        }
        self._outgoing.append((route, encode(welcome, to_json(values))))

    def _take_endpoints(self, description: dict[str, Any]) -> None:
        for name in ("data", "batches"):
            url = description.get(name)
            if not isinstance(url, str):
                raise RefusedError("description", f"expected ingest's address of {name}")
            self.endpoints[name] = url

    def _heartbeat(self, route: bytes, token: str, payload: Buffer, now: float) -> None:
        report = from_json(payload)
        member = self.members.heard(route, token, report, now)
        if member is None:
            self._reject(route, "forgotten", "this process is not, or no longer, in the run")
            return
        if member.role != "ingest" and memoryview(payload).nbytes > MAX_REPORT_BYTES:
            member.report = {}
            raise WireError("payload_json", f"expected a report of at most {MAX_REPORT_BYTES} bytes")
        version = report.get("policy_version")
        if type(version) is int:
            self._highest_version = max(self._highest_version, version)
        if member.role == "ingest":
            self._take_report(report, now)
        else:
            self._tell(member)

    def _take_report(self, report: dict[str, Any], now: float) -> None:
        values, answering, serial = report.get("report"), report.get("answering"), report.get("serial")
        if not isinstance(values, dict) or type(answering) is not int:
            raise WireError("payload_json", "expected ingest's report and the number that it answers")
        self.report, self.reported_at = values, now
        if serial != self.members.serial:
            self._told = ()  # it has missed a table
        else:
            self._tell_ingest(answer=True)
        answered = [asked for asked in self._asked if asked.report <= answering]
        self._answer(answered)

    def _request(self, route: bytes, request: Request, body: dict[str, Any], now: float) -> None:
        match request:
            case messages.Scale():
                actors = body.get("actors")
                if type(actors) is not int or not 0 <= actors <= MAX_DESIRED:
                    raise RefusedError("request", f"expected 'actors' from 0 to {MAX_DESIRED}, got {actors!r}")
                self._desired = actors
                self._tell_everyone()
                self._outgoing.append((route, encode(request, to_json({"desired_actors": actors}))))
            case messages.Stop():
                self.stop = True
                self._tell_everyone()
                self._outgoing.append((route, encode(request, to_json({"stop": True}))))
            case messages.Status():
                if not any(asked.route == route and asked.request == request.request for asked in self._asked):
                    self._report_number += 1
                    self._asked.append(Asked(route, request.request, self._report_number, now + REPORT_WITHIN_S))

    def _answer(self, answered: list[Asked]) -> None:
        if not answered:
            return
        status = to_json(self.status())
        for asked in answered:
            self._asked.remove(asked)
            self._outgoing.append((asked.route, encode(messages.Status(asked.request), status)))

    def turn(self, now: float) -> None:
        """Do what time alone asks for. Call it when no message waits, for one may be the heartbeat that is missed."""
        self.members.expire(now)
        self._answer([asked for asked in self._asked if now >= asked.deadline])
        self._tell_ingest()

    def _tell_everyone(self) -> None:
        for member in self.members.everyone():
            if member.role != "ingest":
                self._tell(member)
        self._tell_ingest()

    def _tell(self, member: Member, *, fenced: bool = False) -> None:
        self._outgoing.append((member.route, encode(self._state(fenced=fenced), b"{}")))

    def _state(self, *, fenced: bool = False) -> messages.HubState:
        return messages.HubState(self.weights.version, self.stop, self._desired, fenced, self._report_number)

    def _tell_ingest(self, *, answer: bool = False) -> None:
        """Tell ingest what has changed since the last time; an answer goes out in any case."""
        ingest = self.members.ingest
        if ingest is None:
            return
        told = (self.members.serial, ingest.route, self._state())
        if told == self._told and not answer:
            return
        changed = self._told[:2] != told[:2]
        self._told = told
        news = {"serial": self.members.serial, "members": self.members.table()} if changed else {}
        self._outgoing.append((ingest.route, encode(self._state(), to_json(news))))

    def outgoing_control(self) -> list[tuple[bytes, Frames]]:
        """Everything to be sent on the control socket now. Send it before what the weights socket has."""
        self._tell_ingest()
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def actors(self) -> list[dict[str, Any]]:
        """Each actor's detail, from its heartbeats and from ingest; at most MAX_ACTORS_SHOWN."""
        stored: Mapping[str, Any] = self.report.get("actors", {})
        return [
            {
                **member.report,
                **stored.get(str(member.actor_id), {}),
                "actor_id": member.actor_id,
                "incarnation": member.incarnation,
                "alive": member.alive,
                "left": member.left,
            }
            for member in self.members.actors[:MAX_ACTORS_SHOWN]
        ]

    def status(self) -> dict[str, Any]:
        """What `oatmill status` shows."""
        fleet = dict(self.report.get("fleet", {}))
        learner = self.members.learner
        return {
            "ledger": fleet.pop("ledger", {}),
            "fleet": fleet,
            "actors": self.actors(),
            "live": self.members.live,
            "desired_actors": self._desired,
            "expired": self.members.expired,
            "restarts": self.members.restarts,
            "policy_version": self.highest_version,
            "stop": self.stop,
            "learner": {} if learner is None else {**learner.report, "joined": True},
            "rejected": self.rejected_by(),
            "quarantine": self.report.get("quarantine", []),
        }

    def rejected_by(self) -> dict[str, int]:
        """Bad messages by reason, of both processes."""
        return dict(self.rejected + Counter(self.report.get("rejected_by", {})))

    def healthy(self, now: float, within_s: float) -> bool:
        """Whether ingest makes progress too."""
        return now - self.reported_at < within_s

    def ingest_lost(self, now: float) -> bool:
        """Whether ingest lives and has said nothing for so long that the role had better end and be restarted."""
        return self.ready and now - self.reported_at > LOST_AFTER_S

    @property
    def desired_actors(self) -> int:
        """How many actors there shall be."""
        return self._desired
