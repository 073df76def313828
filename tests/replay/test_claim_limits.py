"""An impossible number from a process is rejected and counted, and the run continues."""

from __future__ import annotations

import pytest

from protocol.wire import messages
from protocol.wire.codec import encode, to_json
from replay.claim_limits import MAX_COUNT, MAX_FORGOTTEN, MAX_UNSENT, VERSION_STEP
from replay.hub.core import COUNTS, HubCore
from replay.hub.members import Members
from tests.replay.blocks import SCHEMA
from tests.replay.conversation import Conversation
from tests.replay.hub.talk import Talk
from tests.replay.serving import total

HUGE = 2**53 - 1


def hello(talk: Conversation, acknowledged: int, produced: int, incarnation: int = 1) -> list[object]:
    message = messages.DataHello(0, incarnation, 2, SCHEMA.identity, acknowledged, produced, 0)
    return talk.say(message, to_json(SCHEMA.to_dict()))


def counted(talk: Conversation) -> dict[str, int]:
    return {reason: count for reason, count in talk.core.rejections.counts.items() if count}


def test_an_actor_with_impossible_acknowledgements_is_rejected_and_nothing_is_lost() -> None:
    talk = Conversation()
    hello(talk, acknowledged=HUGE, produced=HUGE)
    assert sum(counted(talk).values()) == 1
    assert talk.core.ledger()["lost"] == 0
    talk.hello(incarnation=2)
    talk.send(0, incarnation=2)
    assert talk.session().next == 2, "its successor is let in"


def test_a_known_session_cannot_have_more_acknowledgements_than_this_server_sent() -> None:
    talk = Conversation()
    talk.hello()
    talk.send(0)
    answers = hello(talk, acknowledged=4, produced=8)
    assert [answer.reason for answer in answers if isinstance(answer, messages.Reject)] == ["request"]
    assert counted(talk) == {"sequence": 1}
    ledger = talk.core.ledger()
    assert (ledger["lost"], ledger["produced"]) == (0, total(ledger))


@pytest.mark.parametrize(("produced", "evicted"), [(HUGE, 0), (4, 5)])
def test_an_actor_with_an_impossible_hello_gets_a_message(produced: int, evicted: int) -> None:
    talk = Conversation()
    answers = talk.say(messages.DataHello(0, 1, 2, SCHEMA.identity, 0, produced, evicted), to_json(SCHEMA.to_dict()))
    rejects = [answer for answer in answers if isinstance(answer, messages.Reject)]
    assert [answer.reason for answer in rejects] == ["request"]
    assert "expected" in rejects[0].detail
    assert sum(counted(talk).values()) == 1
    assert talk.core.ledger()["produced"] == 0
    assert not [answer for answer in talk.hello() if isinstance(answer, messages.Reject)], "the honest one is let in"


def test_acknowledgements_of_an_earlier_server_are_believed_and_counted_as_lost() -> None:
    talk = Conversation()
    hello(talk, acknowledged=40, produced=44)
    assert talk.core.ledger()["lost"] == 40
    other = Conversation()
    hello(other, acknowledged=MAX_FORGOTTEN + 2, produced=MAX_FORGOTTEN + 2)
    assert (counted(other), other.core.ledger()["lost"]) == ({"sequence": 1}, 0)


@pytest.mark.parametrize("produced", [HUGE, MAX_COUNT + 1, MAX_UNSENT + 3])
def test_an_actor_cannot_have_produced_more_than_it_can_keep(produced: int) -> None:
    talk = Conversation()
    talk.hello()
    talk.send(0)
    talk.say(messages.DataHeartbeat(0, 1, produced, 0))
    assert counted(talk) == {"header_fields": 1}
    assert talk.core.ledger()["produced"] == 2


@pytest.mark.parametrize("message", ["consumed", "get", "commit"])
def test_a_learner_with_an_impossible_version_or_cursor_is_rejected_and_can_continue(message: str) -> None:
    talk = Conversation()
    talk.hello()
    talk.learn()
    for first in (0, 2):
        talk.send(first)
    if message == "commit":
        talk.tell(messages.Commit(0, "t", HUGE))
    elif message == "consumed":
        talk.consumed(-1, version=HUGE)
    else:
        talk.get(version=HUGE)
    assert sum(counted(talk).values()) == 1
    assert talk.core.policy_version == 0
    assert any(isinstance(answer, tuple) for answer in talk.get(version=1)), "the learner still gets its batch"


def learner_of(talk: Talk, version: int = 3) -> None:
    """A learner that has joined, on a hub that knows a version."""
    talk.hub._known_version = version
    talk.actor()


def test_a_heartbeat_cannot_raise_the_policy_version_above_what_a_learner_has_published() -> None:
    talk = Talk().begin()
    learner_of(talk)
    for version in (HUGE, 4):
        talk.say("a", messages.Heartbeat("a"), {"policy_version": version})
    assert talk.hub.rejections.counts["version_range"] == 2
    assert talk.hub.highest_version == 3
    talk.say("a", messages.Heartbeat("a"), {"policy_version": 3, "env_steps": 7})
    assert talk.hub.actors()[0]["env_steps"] == 7, "it continues"


def test_a_hub_without_a_version_believes_actors_within_limits_until_a_learner_publishes() -> None:
    talk = Talk().begin()
    talk.actor()
    talk.say("a", messages.Heartbeat("a"), {"policy_version": HUGE})
    assert talk.hub.highest_version == -1
    talk.say("a", messages.Heartbeat("a"), {"policy_version": 12})
    assert (talk.hub.highest_version, talk.hub.known_version) == (12, -1)
    assert encode(messages.HelloAccepted(-1, 0, talk.hub.highest_version + 1))


def test_counts_beyond_any_real_run_are_rejected() -> None:
    talk = Talk().begin()
    talk.actor()
    for name in COUNTS:
        talk.say("a", messages.Heartbeat("a"), {name: MAX_COUNT + 1})
    assert talk.hub.rejections.counts["payload_json"] == len(COUNTS) == 8


def test_a_version_from_a_log_leaves_room_for_later_versions() -> None:
    hub = HubCore(Members({}, "s"), desired_actors=1, weights_endpoint="ipc:///w")
    hub._known_version = 5
    assert hub.highest_version + VERSION_STEP < 2**53
