"""The hub's state machine: the members of the run, messages to them, and an operator's requests.

It has no sockets.
"""

from __future__ import annotations

import hmac
import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

from oatmill.errors import WireError
from protocol.security.users import ANYBODY, UnauthorisedError, User, require
from protocol.wire import messages
from protocol.wire.codec import Buffer, Frames, decode, encode, from_json, is_count, shortened, to_json
from protocol.wire.deadlines import LOST_AFTER_S
from replay.claim_limits import MAX_COUNT, MAX_VERSION, check_version
from replay.hub.actor_resources import ActorResources
from replay.hub.member import Member, RefusedError
from replay.hub.members import Members, twin_of
from replay.hub.questions import Questions, StatusQuestion
from replay.hub.status import EQUAL_STREAMS, actors_of, status_of
from replay.hub.weights_store import WeightsStore
from replay.quarantine import BadMessage, Rejections

_log = logging.getLogger("oatmill.replay.hub")

MAX_REPORT_BYTES = 64 * 1024
"""The largest report of an actor or a learner in a heartbeat."""
COUNTS = (
    "cpu_milliseconds",
    "env_steps",
    "episodes",
    "evicted",
    "learner_step",
    "produced",
    "resident_memory_bytes",
    "unrolls",
)
"""The numbers in a report that somebody calculates with."""
ANY_KEY = ("actor", "learner", "operator", "server")
MAY_ASK: dict[type, tuple[str, ...]] = {
    messages.Status: ANY_KEY,
    messages.Scale: ("operator",),
    messages.Stop: ("operator", "learner"),  # a learner stops the run when its budget is used
}
MAX_REFUSED = 20
"""The number of bad messages that wait to be written to the quarantine."""

Request = messages.Status | messages.Scale | messages.Stop


class HubCore:
    """The state of the control and weights sockets.

    Args:
        members: the table of members.
        desired_actors: the target number of actors at the start.
        weights_endpoint: the address of the weights socket.
        highest_version: the highest policy version that earlier hubs of this run have seen.

    Attributes:
        stop: whether the run ends.
        report: the last report of ingest.
        reported_at: when it arrived, in seconds of the monotonic clock.
        endpoints: addresses of data, batches and weights. Ingest reports those of data and batches.
        rejections: the bad messages that the hub has received.
    """

    def __init__(self, members: Members, *, desired_actors: int, weights_endpoint: str, highest_version: int = -1) -> None:
        self.members, self.weights = members, WeightsStore()
        self.members.machines.own = desired_actors
        self._outgoing: list[tuple[bytes, Frames]] = []
        self._questions, self.resources = Questions(), ActorResources()
        self._warned_of_streams = False
        self._told: tuple[Any, ...] = ()  # the state that was last sent to ingest
        self._known_version, self._claimed_version = highest_version, -1
        self.report: dict[str, Any] = {}
        self.reported_at, self.stop = -float("inf"), False
        self.endpoints: dict[str, str] = {"weights": weights_endpoint}
        self.rejections = Rejections(MAX_REFUSED)

    @property
    def desired_actors(self) -> int:
        """The target number of actors of the whole run."""
        return self.members.machines.target

    @property
    def ready(self) -> bool:
        """Whether ingest has joined and reported, so that actors and learner can join."""
        return self.members.ingest is not None and self.reported_at >= 0

    @property
    def serving(self) -> bool:
        """Whether trajectories are accepted: ingest is ready, and the log can be written."""
        return self.ready and not self.report.get("log", {}).get("stalled", False)

    @property
    def known_version(self) -> int:
        """The highest policy version that a learner has published to this hub or one before it; -1 if none has."""
        return max(self._known_version, self.weights.version)

    @property
    def highest_version(self) -> int:
        """The highest policy version that exists, even if nobody holds it.

        A restarted learner continues above it.
        """
        return self._claimed_version if self.known_version < 0 else self.known_version

    def receive_control(self, route: bytes, header: Buffer, payload: Buffer, now: float, user: User = ANYBODY) -> None:
        """Handle one message on the control socket. A bad one is counted and answered with a REJECT."""
        try:
            message: messages.ControlToHub = decode(header, messages.CONTROL_TO_HUB)
            match message:
                case messages.Hello():
                    self._hello(route, message, from_json(payload), now, user)
                case messages.Heartbeat():
                    self._heartbeat(route, message.token, payload, now, user)
                case messages.Bye():
                    require(user, *ANY_KEY)
                    self.members.bye(message.token, user)
                    self._outgoing.append((route, encode(message)))
                case _:
                    require(user, *MAY_ASK[type(message)])
                    self._request(route, message, from_json(payload), now)
        except RefusedError as error:
            self._reject(route, error.reason, error.detail)
        except WireError as error:
            self.rejections.add(BadMessage.of(error, "control", header, payload))
            self._reject(route, error.reason, error.detail)

    def bad_frames(self, error: WireError, socket: str = "control") -> None:
        """Count a message that does not have two frames."""
        self.rejections.add(BadMessage.of(error, socket))

    def receive_weights(
        self, route: bytes, header: Buffer, payload: Buffer, *, now: float, wall: float, user: User = ANYBODY
    ) -> None:
        """Handle one message on the weights socket."""
        learner, known = self.members.learner, self.known_version
        self.weights.receive(
            route, header, payload, now=now, wall=wall, authorise=lambda message: check_access(message, user, learner, known)
        )
        while self.weights.refused:
            self.rejections.add(BadMessage.of(self.weights.refused.popleft(), "weights", header, payload))

    def _reject(self, route: bytes, reason: str, detail: str) -> None:
        self._outgoing.append((route, encode(messages.Reject(reason, shortened(detail)))))

    def _hello(self, route: bytes, hello: messages.Hello, description: dict[str, Any], now: float, user: User) -> None:
        if hello.role != "ingest" and not self.ready:
            return  # the process asks again after a second
        member, former = self.members.join(route, hello, description, now, user)
        if member.role == "ingest":
            self._take_endpoints(description)
            known = description.get("known", {})
            self.members.expect(known, now)
            self._known_version = max(self._known_version, min(known.get("policy_version", -1), MAX_VERSION))
        if not self._warned_of_streams and (twin := twin_of(member, self.members.actors)):
            self._warned_of_streams = True
            _log.warning("actors %d and %d %s", twin.actor_id, member.actor_id, EQUAL_STREAMS)
        if former is not None:
            self._tell(former, fenced=True)
        self._tell_ingest()  # before the welcome, so that ingest knows an actor before the actor connects
        welcome = messages.HelloAccepted(member.actor_id, member.incarnation, self.highest_version)
        values = {"endpoints": self.endpoints, **self.members.facts(), **self.members.machines.facts(member)}
        self._outgoing.append((route, encode(welcome, to_json(values))))

    def _take_endpoints(self, description: dict[str, Any]) -> None:
        for name in ("data", "batches"):
            url = description.get(name)
            if not isinstance(url, str):
                raise RefusedError("description", f"expected the address of {name}")
            self.endpoints[name] = url

    def _heartbeat(self, route: bytes, token: str, payload: Buffer, now: float, user: User) -> None:
        require(user, *ANY_KEY)
        report = from_json(payload)
        member = self.members.heard(route, token, report, now, user)
        if member is None:
            self._reject(route, "forgotten", "this process has not joined the run, or has left it")
            return
        if member.role != "ingest":
            member.report = {}
            check_report(report, memoryview(payload).nbytes)
            version = report.get("policy_version", -1)
            check_reported_version(member.role, version, self.known_version)
            self._claimed_version = max(self._claimed_version, version)
            member.report = report
            self.resources.note(member)
        if member.role == "ingest":
            self._take_report(report, now)
        else:
            self._tell(member)

    def _take_report(self, report: dict[str, Any], now: float) -> None:
        values, answering, serial = report.get("report"), report.get("answering"), report.get("serial")
        if not isinstance(values, dict) or type(answering) is not int:
            raise WireError("payload_json", "expected a report and the number of the question that it answers")
        self.report, self.reported_at = values, now
        if serial != self.members.serial:
            self._told = ()  # ingest has missed a table: send it again
        else:
            self._tell_ingest(answer=True)
        self._answer(self._questions.take_answered(answering))

    def _request(self, route: bytes, request: Request, body: dict[str, Any], now: float) -> None:
        match request:
            case messages.Scale():
                self.members.machines.scale(body)
                self._tell_everyone()
                self._outgoing.append((route, encode(request, to_json({"desired_actors": self.desired_actors}))))
            case messages.Stop():
                self.stop = True
                self._tell_everyone()
                self._outgoing.append((route, encode(request, to_json({"stop": True}))))
            case messages.Status():
                self._questions.add(route, request.request, now)

    def _answer(self, answered: list[StatusQuestion]) -> None:
        if not answered:
            return
        status = to_json(self._status())
        for asked in answered:
            self._outgoing.append((asked.route, encode(messages.Status(asked.request), status)))

    def turn(self, now: float) -> None:
        """Do what is due.

        Call it only when no message waits, because a waiting message may be a missing heartbeat.
        """
        self.members.expire(now)
        self._answer(self._questions.take_overdue(now))
        self._tell_ingest()

    def _tell_everyone(self) -> None:
        for member in self.members.everyone():
            if member.role != "ingest":
                self._tell(member)
        self._tell_ingest()

    def _tell(self, member: Member, *, fenced: bool = False) -> None:
        self._outgoing.append((member.route, self.state(member, fenced=fenced)))

    def state(self, member: Member, *, fenced: bool = False) -> Frames:
        """Return the message with the run's state. A machine gets its share as the target number of actors."""
        return encode(self._state(self.members.machines.target_of(member), fenced=fenced), b"{}")

    def _state(self, desired: int, *, fenced: bool = False) -> messages.HubState:
        return messages.HubState(self.weights.version, self.stop, desired, fenced, self._questions.report)

    def _tell_ingest(self, *, answer: bool = False) -> None:
        """Send ingest the state if it has changed, or in any case as an answer."""
        ingest = self.members.ingest
        if ingest is None:
            return
        state = self._state(self.desired_actors)
        told = (self.members.serial, ingest.route, state)
        if told == self._told and not answer:
            return
        changed = self._told[:2] != told[:2]
        self._told = told
        news = (
            {"serial": self.members.serial, "members": self.members.table(), "sessions": self.members.sessions()}
            if changed
            else {}
        )
        self._outgoing.append((ingest.route, encode(state, to_json(news))))

    def outgoing_control(self) -> list[tuple[bytes, Frames]]:
        """Return the messages to send on the control socket. Send them before those of the weights socket."""
        self._tell_ingest()
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def actors(self) -> list[dict[str, Any]]:
        """Return the details of the actors."""
        return actors_of(self.members, self.report)

    def _status(self) -> dict[str, Any]:
        own = {
            **self.members.machines.status(),
            "policy_version": self.highest_version,
            "stop": self.stop,
            "rejected": self.rejected_by(),
        }
        return status_of(self.members, self.report, own)

    def rejected_by(self) -> dict[str, int]:
        """Return the number of bad messages of both processes, by reason."""
        return dict(self.rejections.counts + Counter(self.report.get("rejected_by", {})))

    def healthy(self, now: float, within_s: float) -> bool:
        """Whether ingest makes progress."""
        return now - self.reported_at < within_s

    def ingest_lost(self, now: float) -> bool:
        """Whether ingest has been silent for so long that the server should end and be restarted."""
        return self.ready and now - self.reported_at > LOST_AFTER_S


def check_report(report: Mapping[str, Any], nbytes: int) -> None:
    """Check that the report of an actor or a learner can be used and shown.

    Raises:
        WireError: `payload_json` if it is too long, or one of the numbers that are used is invalid.
    """
    if nbytes > MAX_REPORT_BYTES:
        raise WireError("payload_json", f"expected a report of at most {MAX_REPORT_BYTES} bytes")
    version = report.get("policy_version", -1)
    if not (version == -1 or is_count(version)):
        raise WireError("payload_json", f"expected policy_version to be a number of at least -1, got {str(version)[:40]!r}")
    for name in COUNTS:
        if not is_count(report.get(name, 0)) or report.get(name, 0) > MAX_COUNT:
            raise WireError(
                "payload_json", f"expected {name} to be a number from 0 to {MAX_COUNT}, got {str(report[name])[:40]!r}"
            )


def check_reported_version(role: str, version: int, known: int) -> None:
    """Check the policy version that a process reports.

    An actor gets its version from a hub. Until a learner has published one to this hub, it may be
    from an earlier hub.

    Args:
        role: the process's role.
        version: the version that it reports.
        known: the highest version that this hub knows; -1 for none.

    Raises:
        WireError: `version_range` if there is no such version.
    """
    if role == "learner" or known < 0:
        check_version(version, known)
    elif version > known:
        raise WireError("version_range", f"expected a policy version of at most {known}, got {version}")


def check_access(message: messages.WeightsToHub, user: User, learner: Member | None, known: int) -> None:
    """Check a message on the weights socket: all processes of the run may pull, only the learner may push.

    Args:
        message: the message.
        user: its sender.
        learner: the learner that has joined; None if there is none.
        known: the highest policy version that this hub knows; -1 for none.

    Raises:
        UnauthorisedError: if the sender is not allowed to send it.
        WireError: `version_range` if no learner can have reached its version.
    """
    if not isinstance(message, messages.WeightsPush | messages.WeightsOffer):
        require(user, *ANY_KEY)
        return
    require(user, "learner")
    if learner is None:
        raise UnauthorisedError("unknown_session", "no learner has joined this hub")
    if learner.user != user or not hmac.compare_digest(learner.token.encode(), message.session.encode()):
        raise UnauthorisedError("identity", "only the learner that joined last may publish weights")
    if isinstance(message, messages.WeightsPush):
        check_version(message.version, known)
