"""Machines that join a run: their actors' numbers, and how the target number of actors is divided among them."""

from __future__ import annotations

from typing import Any

import pytest

from protocol.wire import messages
from protocol.wire.deadlines import DEAD_AFTER_S, LOST_AFTER_S
from protocol.wire.version import versions
from tests.replay.hub.talk import SETTINGS, Talk


def machine(talk: Talk, token: str, actors: int, *, first: int = -1, **more: Any) -> Any:
    """A machine joins; what the hub answers it first, and the values that come with it."""
    hello = messages.Hello("machine", first, token, -1 if first < 0 else 1)
    description = {"versions": versions(), "name": token, "actors": actors} | more
    return next((message, values) for who, message, values in talk.say(token, hello, description) if who == token)


def shares(talk: Talk) -> dict[str, Any]:
    """The run's own share, and each machine's."""
    joined = talk.hub.members.machines
    return {"own": joined.own} | {member.name: member.share for member in joined.joined}


def scale(talk: Talk, **body: int) -> dict[str, int]:
    """An operator scales; the target number that each process is told."""
    told = talk.say("op", messages.Scale(1), body)
    return {who: message.desired_actors for who, message, _ in told if isinstance(message, messages.HubState)}


def test_a_machine_gets_numbers_above_the_others_and_the_settings_and_its_actors_count_for_the_target() -> None:
    talk = Talk().begin()  # 2 actors of its own
    welcome, values = machine(talk, "east", 4)
    assert (welcome.actor_id, values["settings"]) == (2, SETTINGS)
    welcome, _ = machine(talk, "west", 3)
    assert welcome.actor_id == 6
    assert talk.hub.desired_actors == 2 + 4 + 3
    numbers = [next(m.actor_id for who, m, _ in talk.actor(token) if who == token) for token in ("a", "b", "c")]
    assert numbers == [0, 1, 9], "actors that leave the choice to the hub get no machine's number"
    assert "settings" not in next(values for who, _, values in talk.actor("d") if who == "d")


def test_numbers_of_actors_that_work_are_not_given_to_a_machine() -> None:
    talk = Talk().begin()
    talk.actor("a", number=4)
    assert machine(talk, "east", 2)[0].actor_id == 2
    assert machine(talk, "west", 2)[0].actor_id == 5, "4 is taken"


def test_a_repeated_hello_is_answered_alike() -> None:
    talk = Talk().begin()
    assert machine(talk, "east", 4) == machine(talk, "east", 4)
    assert talk.hub.desired_actors == 6


def test_a_target_is_divided_among_the_machines_in_order_and_each_is_told_its_own_share() -> None:
    talk = Talk().begin()
    machine(talk, "east", 4)
    machine(talk, "west", 4)
    talk.actor()
    assert scale(talk, actors=5) == {"east": 4, "west": 1, "a": 5, "i": 5}
    assert shares(talk) == {"own": 0, "east": 4, "west": 1}
    scale(talk, actors=11)
    assert shares(talk) == {"own": 3, "east": 4, "west": 4}
    ((_, state, _),) = [entry for entry in talk.say("east", messages.Heartbeat("east")) if entry[0] == "east"]
    assert state.desired_actors == 4


def test_a_supervisor_that_tells_a_new_hub_its_own_number_leaves_the_machines_as_they_are() -> None:
    talk = Talk().begin()
    machine(talk, "east", 4, first=7, share=3)
    assert scale(talk, own_actors=5) == {"east": 3, "i": 8}
    assert shares(talk) == {"own": 5, "east": 3}


def test_a_machine_that_leaves_takes_its_share_along_and_frees_its_numbers() -> None:
    talk = Talk().begin()
    machine(talk, "east", 4)
    machine(talk, "west", 4)
    talk.say("east", messages.Bye("east"))
    assert shares(talk) == {"own": 2, "west": 4}
    ((_, refused, _),) = [entry for entry in talk.say("east", messages.Heartbeat("east")) if entry[0] == "east"]
    assert refused.reason == "forgotten"


@pytest.mark.parametrize(("connected", "silent_s"), [(False, DEAD_AFTER_S), (True, LOST_AFTER_S)])
def test_a_machine_that_is_gone_is_forgotten_and_joins_again_as_it_was(connected: bool, silent_s: float) -> None:
    talk = Talk(connected=connected).begin()
    machine(talk, "east", 4)
    machine(talk, "west", 4)
    talk.now = silent_s
    talk.say("west", messages.Heartbeat("west"))
    talk.hub.turn(talk.now)
    assert shares(talk) == {"own": 2, "east": 4, "west": 4}
    talk.hub.turn(talk.now + 0.1)
    assert shares(talk) == {"own": 2, "west": 4}
    welcome, _ = machine(talk, "east", 4, first=2, share=1)
    assert welcome.actor_id == 2
    assert shares(talk) == {"own": 2, "west": 4, "east": 1}


def test_numbers_that_another_machine_has_by_now_are_refused() -> None:
    talk = Talk().begin()
    machine(talk, "west", 4)
    refused, _ = machine(talk, "east", 4, first=5)
    assert refused.reason == "fenced"
    assert shares(talk) == {"own": 2, "west": 4}


def test_another_version_is_refused_with_both_versions() -> None:
    refused, _ = machine(Talk().begin(), "east", 4, versions={"oatmill": "9.9", "messages": "ab"})
    ours = versions()
    assert (refused.reason, refused.detail) == (
        "version",
        f"the run has oatmill {ours['oatmill']} (messages {ours['messages']}), this machine has oatmill 9.9 (messages ab); "
        "install the same on both",
    )


@pytest.mark.parametrize("more", [{"actors": 0}, {"actors": "4"}, {"actors": True}, {"actors": 9_999}])
def test_a_number_of_actors_that_there_cannot_be_is_refused(more: dict[str, Any]) -> None:
    talk = Talk().begin()
    hello = messages.Hello("machine", -1, "east", -1)
    ((_, refused, _),) = talk.say("east", hello, {"versions": versions(), **more})
    assert refused.reason == "request"
    assert shares(talk) == {"own": 2}


def test_a_name_is_short_and_has_nothing_that_changes_a_terminal() -> None:
    talk = Talk().begin()
    machine(talk, "east", 1, name="\x1b[31m" + 100 * "x")
    (entry,) = talk.hub.members.machines.status()["machines"]
    assert entry["name"] == ("[31m" + 100 * "x")[:64]
