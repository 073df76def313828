from __future__ import annotations

from typing import Any

import pytest

from oatmill.errors import WireError
from protocol.peers.control import ControlPeer, ControlState
from protocol.wire import messages
from protocol.wire.codec import Frames, decode, encode, to_json
from protocol.wire.deadlines import GOODBYE_WITHIN_S, HEARTBEAT_EVERY_S, LOST_AFTER_S
from tests.replay.blocks import SPACES

WELCOME = {"endpoints": {"data": "ipc:///d"}, "spaces": SPACES.to_dict(), "episode_statistics": ["hearts"]}


def peer_of(actor_id: int | None = None) -> ControlPeer:
    return ControlPeer(role="actor", description={"rows": 2}, actor_id=actor_id, token="t")


def kinds(frames: list[Frames]) -> list[Any]:
    return [type(decode(header, messages.CONTROL_TO_HUB)) for header, _ in frames]


def hear(peer: ControlPeer, message: Any, values: dict[str, Any] | None = None) -> None:
    peer.receive(encode(message)[0], to_json(values or {}), 0.0)


def joined() -> ControlPeer:
    peer = peer_of()
    peer.join()
    peer.send(0.0)
    hear(peer, messages.HelloAccepted(4, 2, 9), WELCOME)
    return peer


def test_a_process_asks_to_join_every_second_until_it_is_answered() -> None:
    peer = peer_of()
    assert peer.send(0.0) == []
    peer.join()
    assert kinds(peer.send(0.0)) == [messages.Hello]
    assert peer.send(0.9) == []
    assert kinds(peer.send(1.0)) == [messages.Hello]
    hear(peer, messages.HelloAccepted(4, 2, 9), WELCOME)
    assert peer.send(5.0) == []
    assert peer.welcome is not None
    assert (peer.welcome.actor_id, peer.welcome.incarnation, peer.welcome.policy_version) == (4, 2, 9)
    assert peer.welcome.spaces == SPACES


def test_a_hub_without_spaces_says_so() -> None:
    peer = peer_of()
    peer.join()
    hear(peer, messages.HelloAccepted(-1, 0, -1), WELCOME | {"spaces": None})
    assert peer.welcome is not None
    assert peer.welcome.spaces is None


@pytest.mark.parametrize(
    "broken", [{"endpoints": 3}, {"endpoints": {"data": 3}}, {"spaces": {}}, {"episode_statistics": None}, {"encoder": 3}]
)
def test_an_invalid_welcome_is_rejected(broken: dict[str, Any]) -> None:
    peer = peer_of()
    peer.join()
    with pytest.raises(WireError):
        hear(peer, messages.HelloAccepted(4, 2, 9), WELCOME | broken)
    assert peer.welcome is None


def test_heartbeats_are_sent_two_seconds_apart_however_often_they_are_requested() -> None:
    peer = joined()
    sent = []
    for tenth in range(10, 60):
        peer.heartbeat({}, tenth / 10)
        sent += [tenth / 10 for _ in peer.send(tenth / 10)]
    assert sent == pytest.approx([2.0, 4.0])
    assert HEARTBEAT_EVERY_S == 2.0
    peer.heartbeat({}, 5.5, force=True)
    assert kinds(peer.send(5.5)) == [messages.Heartbeat]


def test_requests_do_not_delay_heartbeats() -> None:
    peer = joined()
    sent = []
    for tenth in range(10, 60):
        if tenth % 10 == 5:
            peer.ask("status", {})
        peer.heartbeat({}, tenth / 10)
        sent += [type(decode(header, messages.CONTROL_TO_HUB)) for header, _ in peer.send(tenth / 10)]
        peer.answer = {}
    assert (sent.count(messages.Status), sent.count(messages.Heartbeat)) == (5, 2)


def test_no_heartbeat_is_sent_before_the_process_has_joined() -> None:
    peer = peer_of()
    peer.join()
    peer.heartbeat({}, 0.0, force=True)
    assert kinds(peer.send(0.0)) == [messages.Hello]
    assert peer.send(0.5) == []


def test_the_newest_state_is_kept_and_being_fenced_is_final() -> None:
    peer = joined()
    hear(peer, messages.HubState(5, stop=False, desired_actors=3, fenced=True, report_asked=0))
    hear(peer, messages.HubState(6, stop=True, desired_actors=4, fenced=False, report_asked=0))
    assert peer.state == ControlState(policy_version=6, stop=True, desired_actors=4, fenced=True)


def test_a_process_that_the_hub_does_not_know_joins_again_as_the_same_member() -> None:
    peer = joined()
    hear(peer, messages.Reject("forgotten", "not in the run"))
    assert not peer.state.fenced
    ((header, _),) = peer.send(3.0)
    hello = decode(header, messages.CONTROL_TO_HUB)
    assert (hello.actor_id, hello.incarnation) == (peer.welcome.actor_id, peer.welcome.incarnation)  # type: ignore[union-attr]
    hear(peer, messages.Reject("fenced", "another one is there"))
    assert peer.state.fenced


def test_a_request_is_repeated_and_only_its_own_answer_is_accepted() -> None:
    peer = peer_of()
    peer.ask("scale", {"actors": 3})
    assert kinds(peer.send(0.0)) == [messages.Scale]
    assert peer.send(0.5) == []
    assert kinds(peer.send(1.0)) == [messages.Scale]
    hear(peer, messages.Scale(99), {"desired_actors": 1})
    assert peer.answer is None
    hear(peer, messages.Scale(1), {"desired_actors": 3})
    assert peer.answer == {"desired_actors": 3}
    assert peer.send(9.0) == []


def test_a_rejected_request_is_not_repeated() -> None:
    peer = peer_of()
    peer.ask("stop", {})
    peer.send(0.0)
    hear(peer, messages.Reject("request", "no"))
    assert peer.refusal == ("request", "no")
    assert peer.send(9.0) == []


def test_the_hub_is_lost_after_a_minute_without_an_answer() -> None:
    peer = joined()
    assert not peer.lost(1000.0)
    peer.heartbeat({}, 1000.0)
    peer.send(1000.0)
    assert not peer.lost(1000.0 + LOST_AFTER_S)
    assert peer.lost(1000.1 + LOST_AFTER_S)
    hear(peer, messages.HubState(0, stop=False, desired_actors=1, fenced=False, report_asked=0))
    assert not peer.lost(2000.0)


def test_bye_is_repeated_until_it_is_answered() -> None:
    peer = joined()
    peer.leave()
    assert kinds(peer.send(0.0)) == [messages.Bye]
    assert kinds(peer.send(GOODBYE_WITHIN_S)) == [messages.Bye]
    hear(peer, messages.Bye("another"))
    assert not peer.said_goodbye
    hear(peer, messages.Bye("t"))
    assert peer.said_goodbye
    assert peer.send(9.0) == []
