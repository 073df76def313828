from __future__ import annotations

import pytest

from protocol.wire import messages
from protocol.wire.codec import encode
from replay.hub.core import MAX_REPORT_BYTES, HubCore
from replay.hub.members import Members
from replay.hub.questions import REPORT_WITHIN_S
from tests.replay.hub.talk import ACTOR, CONFIG, Talk


def test_nobody_can_join_before_ingest() -> None:
    talk = Talk()
    assert talk.actor() == []
    talk.begin()
    kinds = [type(message) for who, message, _ in talk.actor() if who == "a"]
    assert kinds == [messages.HelloAccepted]


def test_ingest_learns_of_an_actor_before_the_actor_has_joined() -> None:
    talk = Talk().begin()
    first, second = talk.actor()
    assert (first[0], first[2]["members"]) == ("i", {"0": [1, True]})
    assert second[0] == "a"
    assert second[1] == messages.HelloAccepted(0, 1, -1)
    assert second[2]["endpoints"] == {"weights": "ipc:///w", "data": "ipc:///d", "batches": "ipc:///b"}
    assert second[2]["spaces"]["action"]["sizes"] == [3]
    assert second[2]["encoder"] is None


def test_a_table_that_ingest_has_missed_is_sent_again_with_the_answer_to_its_next_report() -> None:
    talk = Talk().begin()
    serial = talk.actor()[0][2]["serial"]
    ((_, _, news),) = talk.report(serial=serial - 1)
    assert news["members"] == {"0": [1, True]}
    ((_, _, news),) = talk.report(serial=serial)
    assert news == {}


def test_a_replaced_process_is_told_at_once() -> None:
    talk = Talk().begin()
    talk.actor("a", number=0)
    told = {who: message for who, message, _ in talk.actor("b", number=0)}
    assert told["a"].fenced
    assert told["b"] == messages.HelloAccepted(0, 2, -1)
    ((_, refused, _),) = talk.say("a", messages.Heartbeat("a"))
    assert refused.reason == "forgotten"


def test_stop_and_scale_are_told_to_everyone_at_once() -> None:
    talk = Talk().begin()
    talk.actor()
    told = talk.say("op", messages.Scale(1), {"actors": 5})
    assert {(who, getattr(message, "desired_actors", None)) for who, message, _ in told} == {("a", 5), ("i", 5), ("op", None)}
    told = talk.say("op", messages.Stop(2))
    assert {who for who, message, _ in told if getattr(message, "stop", False)} == {"a", "i"}
    ((_, late, _),) = [entry for entry in talk.say("a", messages.Heartbeat("a")) if entry[0] == "a"]
    assert late.stop


def test_status_waits_for_ingests_newest_numbers() -> None:
    talk = Talk().begin()
    asked = talk.say("op", messages.Status(7))
    ((who, state, _),) = asked
    assert (who, state.report_asked) == ("i", 1)
    answers = talk.report(answering=1, fleet={"ledger": {"produced": 3}, "env_steps": 9})
    ((_, answer, values),) = [entry for entry in answers if entry[0] == "op"]
    assert answer == messages.Status(7)
    assert values["ledger"] == {"produced": 3}
    assert values["fleet"] == {"env_steps": 9}


def test_status_is_answered_with_what_there_is_when_ingest_is_silent() -> None:
    talk = Talk().begin()
    talk.say("op", messages.Status(7))
    talk.hub.turn(REPORT_WITHIN_S - 0.1)
    assert talk.sent() == []
    talk.hub.turn(REPORT_WITHIN_S)
    ((who, answer, _),) = talk.sent()
    assert (who, answer) == ("op", messages.Status(7))


def test_a_repeated_request_is_answered_once() -> None:
    talk = Talk().begin()
    talk.say("op", messages.Status(7))
    talk.say("op", messages.Status(7))
    answers = [who for who, *_ in talk.report(answering=2) if who == "op"]
    assert answers == ["op"]


def test_a_learner_that_joins_gets_the_highest_version_ever_seen() -> None:
    talk = Talk().begin()
    talk.actor()
    talk.say("a", messages.Heartbeat("a"), {"policy_version": 12})  # from before the server was restarted
    told = talk.say("l", messages.Hello("learner", -1, "l", -1), {"config": CONFIG, "rank": 0})
    assert [message for who, message, _ in told if who == "l"] == [messages.HelloAccepted(-1, 0, 12)]


def test_a_report_that_is_too_long_is_rejected() -> None:
    talk = Talk().begin()
    talk.actor()
    talk.say("a", messages.Heartbeat("a"), {"x": "y" * MAX_REPORT_BYTES})
    assert talk.hub.rejections.counts["payload_json"] == 1
    assert talk.hub.actors()[0].keys() >= {"actor_id", "alive"}
    assert "x" not in talk.hub.actors()[0]


def test_health_is_ingests_last_report() -> None:
    talk = Talk().begin()
    assert talk.hub.healthy(4.9, 5.0)
    assert not talk.hub.healthy(5.1, 5.0)


def test_an_ingest_that_hangs_is_given_up_after_a_minute() -> None:
    talk = Talk()
    assert not talk.hub.ingest_lost(1e6)  # it has not begun
    talk.begin()
    assert not talk.hub.ingest_lost(60.0)
    assert talk.hub.ingest_lost(60.1)


def test_the_server_is_not_ready_while_its_log_cannot_be_written_but_processes_can_join() -> None:
    talk = Talk().begin()
    assert talk.hub.serving
    talk.report(log={"stalled": True})
    assert (talk.hub.ready, talk.hub.serving) == (True, False)
    assert any(isinstance(message, messages.HelloAccepted) for _, message, _ in talk.actor())


def test_a_new_hub_never_reuses_a_policy_version() -> None:
    hub = HubCore(Members(CONFIG, "s"), desired_actors=1, weights_endpoint="ipc:///w", highest_version=7)
    assert hub.highest_version == 7


def test_only_the_learner_that_has_joined_may_announce_large_weights() -> None:
    talk = Talk().begin()
    learner = messages.Hello("learner", -1, "l", -1)
    talk.say("learner", learner, {"config": CONFIG, "rank": 0, "world": 1})

    def offer(session: str, nbytes: int) -> None:
        header, payload = encode(messages.WeightsOffer(nbytes, session))
        talk.hub.receive_weights(b"someone", header, payload, now=0.0, wall=0.0)

    offer("another", 10**9)
    assert (talk.hub.weights.offered_bytes, talk.hub.rejections.counts["identity"]) == (0, 1)
    offer("l", 1000)
    assert talk.hub.weights.offered_bytes == 1000


def test_two_actors_that_began_alike_are_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    talk = Talk().begin()
    for token in ("a", "b", "b", "c"):  # the second HELLO of b is a repeat
        talk.say(token, messages.Hello("actor", -1, token, -1), ACTOR | {"stream": "1f"})
    (warning,) = caplog.messages
    assert warning.startswith("actors 0 and 1 began with the same observations")
