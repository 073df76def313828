"""CPU time and memory of all actors together, as their heartbeats tell."""

from __future__ import annotations

import os

from protocol.wire import messages
from replay.hub.actor_resources import ActorResources
from replay.hub.member import Member
from replay.hub.metrics import HubNumbers, registry_of
from tests.replay.hub.talk import Talk


def actor(number: int, role: str = "actor") -> Member:
    return Member(role, number, 0, str(number), b"", 0.0, 0.0)


def report(resources: ActorResources, member: Member, milliseconds: int, memory: int = 0) -> None:
    member.report = {"cpu_milliseconds": milliseconds, "resident_memory_bytes": memory}
    resources.note(member)


def test_cpu_time_counts_from_the_first_heartbeat_and_survives_its_actor() -> None:
    resources, first = ActorResources(), actor(0)
    report(resources, first, 3_600_000)  # it returns to a hub that was restarted
    assert resources.quantities([first])["cpu_seconds"] == 0
    report(resources, first, 3_602_500)
    second = actor(0)  # its successor begins at 0
    report(resources, second, 1_000)
    report(resources, second, 1_500)
    # By hand: 2.5 s of the first, 0.5 s of the second.
    assert resources.quantities([second])["cpu_seconds"] == 3.0


def test_memory_is_that_of_the_actors_that_live() -> None:
    resources, members = ActorResources(), [actor(0), actor(1), actor(2)]
    for member in members:
        report(resources, member, 0, memory=100)
    members[1].alive = False
    members[2].report = {}  # one of an earlier version says nothing
    assert resources.quantities(members)["resident_memory_bytes"] == 100


def test_other_roles_are_not_actors() -> None:
    resources, machine = ActorResources(), actor(0, "machine")
    report(resources, machine, 0)
    report(resources, machine, 1_000)
    assert resources.cpu_milliseconds == 0


def test_the_hub_takes_them_from_heartbeats_and_exports_them_as_one_process() -> None:
    talk = Talk().begin()
    talk.actor()
    for used in (10, 1510):
        talk.say("a", messages.Heartbeat("a"), {"cpu_milliseconds": used, "resident_memory_bytes": 77})
    numbers = HubNumbers({}, {}, actors=talk.hub.resources.quantities(talk.hub.members.actors))
    registry = registry_of(lambda: numbers, lambda: True, ingest=os.getpid())
    actors = {"process": "actors"}
    assert registry.get_sample_value("oatmill_process_cpu_seconds_total", actors) == 1.5
    assert registry.get_sample_value("oatmill_process_resident_memory_bytes", actors) == 77
    assert registry.get_sample_value("oatmill_process_threads", actors) is None
