from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from oatmill.errors import WireError
from protocol.security.users import REVOKED, UnauthorisedError, User
from protocol.wire import messages
from replay.hub.member import Member, RefusedError
from replay.hub.members import Members, twin_of
from replay.hub.status import actors_of
from tests.replay.blocks import SPACES

CONFIG = {"env.id": "Toy-v0"}
ACTOR = {"config": CONFIG, "spaces": SPACES.to_dict(), "episode_statistics": ["hearts"], "rows": 4}


def joined(
    members: Members, token: str, *, role: str = "actor", number: int = -1, now: float = 0.0, **description: Any
) -> Member:
    values = ACTOR | {"rank": 0, "secret": "s"} | description
    return members.join(token.encode(), messages.Hello(role, number, token, -1), values, now)[0]


def table(*, connected: bool = False) -> Members:
    """Members whose connections are gone, as those of processes that were killed are, or are all there."""
    return Members(CONFIG, secret="s", connected=lambda _member: connected)


def test_an_actor_without_a_number_gets_the_lowest_that_is_free() -> None:
    members = table()
    assert [joined(members, token).actor_id for token in "abc"] == [0, 1, 2]
    members.bye("b")
    assert joined(members, "d").actor_id == 1
    members.expire(100.0)
    assert joined(members, "e").actor_id == 3  # a dead actor's number is kept for its own restart


def test_a_repeated_hello_is_the_same_process() -> None:
    members = table()
    assert joined(members, "a") is joined(members, "a")
    assert members.restarts == 0


def test_another_process_with_the_same_number_replaces_the_first() -> None:
    members = table()
    first, second = joined(members, "a", number=3), joined(members, "b", number=3)
    assert (first.incarnation, second.incarnation) == (1, 2)
    assert (first.alive, first.left) == (False, True)
    assert members.heard(b"r", "a", {}, 1.0) is None
    assert members.restarts == 1
    assert members.table() == {"3": [2, True]}


def test_a_late_hello_of_a_process_that_was_replaced_does_not_fence_its_successor() -> None:
    members = table()
    joined(members, "a", number=3)
    joined(members, "b", number=3)
    with pytest.raises(RefusedError, match="has left or was replaced"):
        joined(members, "a", number=3)
    assert members.table() == {"3": [2, True]}


def test_an_actor_that_is_silent_for_more_than_5_seconds_is_dead_until_its_next_heartbeat() -> None:
    members = table()
    joined(members, "a")
    members.expire(5.0)
    assert members.live == 1
    members.expire(5.1)
    assert (members.live, members.expired) == (0, 1)
    members.expire(9.0)
    assert members.expired == 1
    members.heard(b"r", "a", {"env_steps": 3}, 9.5)
    assert (members.live, members.expired) == (1, 1)


def test_every_change_of_the_members_increases_the_serial_number() -> None:
    members = table()
    seen = [members.serial]
    joined(members, "a")
    seen.append(members.serial)
    members.expire(6.0)
    seen.append(members.serial)
    members.heard(b"r", "a", {}, 7.0)
    seen.append(members.serial)
    members.heard(b"r", "a", {}, 8.0)  # nothing new
    assert members.serial == seen[-1]
    members.bye("a")
    seen.append(members.serial)
    assert seen == sorted(set(seen))


@pytest.mark.parametrize(
    ("description", "reason"),
    [
        ({"config": None}, "description"),
        ({"config": {"env.id": "Other-v0"}}, "config"),
        ({"role": "learner", "rank": "0"}, "description"),
        ({"role": "ingest", "secret": "guessed"}, "description"),
    ],
)
def test_a_process_that_does_not_fit_the_run_is_rejected(description: dict[str, Any], reason: str) -> None:
    members = table()
    with pytest.raises(RefusedError) as caught:
        joined(members, "a", **description)
    assert caught.value.reason == reason
    assert list(members.everyone()) == []


def with_encoder(encoder: str) -> Members:
    return Members({**CONFIG, "agent.encoder": encoder}, secret="s", connected=lambda _member: False)


def asking(encoder: str) -> dict[str, Any]:
    return {"config": {**CONFIG, "agent.encoder": encoder}}


def test_the_learner_decides_what_auto_is() -> None:
    members = with_encoder("auto")
    assert members.encoder is None
    joined(members, "a", **asking("auto_cpu"))
    assert members.encoder is None
    joined(members, "l", role="learner", **asking("auto_cpu"))
    assert members.encoder == "auto_cpu"
    joined(members, "b", **asking("auto"))
    joined(members, "m", role="learner", **asking("auto"))
    assert members.encoder == "auto"


def test_what_the_run_has_decided_holds_for_actors_and_the_learner() -> None:
    members = with_encoder("auto_cpu")
    joined(members, "a", **asking("auto"))
    assert members.encoder == "auto_cpu"
    with pytest.raises(RefusedError, match=r"^agent\.encoder: the run has 'auto_cpu', this process has 'auto'$"):
        joined(members, "l", role="learner", **asking("auto"))
    for run, process in (("nature", "auto"), ("auto", "nature"), ("auto_cpu", "small_cnn")):
        for role in ("actor", "learner"):
            with pytest.raises(RefusedError, match=f"the run has '{run}', this process has '{process}'"):
                joined(with_encoder(run), "a", role=role, **asking(process))


def test_a_learner_that_is_refused_decides_nothing() -> None:
    members = Members({**CONFIG, "agent.encoder": "auto"}, secret="s", connected=lambda _member: True)
    joined(members, "l", role="learner", **asking("auto_cpu"))
    with pytest.raises(UnauthorisedError):
        joined(members, "m", role="learner", **asking("auto"))
    assert members.encoder == "auto_cpu"


@pytest.mark.parametrize("description", [{"spaces": None}, {"spaces": {}}, {"episode_statistics": 3}, {"role": "king"}])
def test_a_description_that_is_malformed_breaks_the_protocol(description: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        joined(table(), "a", **description)


def test_a_new_learner_replaces_the_one_before_it_of_the_same_rank_only() -> None:
    members = table()
    first = joined(members, "a", role="learner", rank=0)
    other = joined(members, "b", role="learner", rank=1)
    joined(members, "c", role="learner", rank=0)
    assert (first.left, other.left) == (True, False)
    assert members.learner is not None
    assert members.learner.token == "c"


KNOWN = {"actors": {"0": [3, False], "1": [2, True]}, "ranks": {"0": 4}}


def come_back(members: Members, token: str, number: int, incarnation: int, role: str = "actor", **description: Any) -> Member:
    values = ACTOR | {"rank": 0} | description
    hello = messages.Hello(role, number, token, incarnation)
    return members.join(token.encode(), hello, values, 0.0)[0]


def test_after_the_hubs_death_members_join_again_as_the_same_members() -> None:
    members = table()
    members.expect(KNOWN, 0.0)
    assert members.table() == {"0": [3, True], "1": [2, False]}
    assert come_back(members, "a", 0, 3).incarnation == 3
    assert come_back(members, "a", 0, 3).incarnation == 3, "a HELLO that is repeated"
    assert come_back(members, "l", -1, 4, role="learner").incarnation == 4
    assert (members.restarts, members.live) == (0, 1)
    members.expire(6.0)
    assert members.table() == {"0": [3, False], "1": [2, False]}


def test_a_member_that_does_not_return_is_dead_and_its_successor_is_a_new_incarnation() -> None:
    members = table()
    members.expect(KNOWN, 0.0)
    assert members.learner is None
    members.expire(6.0)
    assert members.table() == {"0": [3, False], "1": [2, False]}
    assert joined(members, "b", number=0).incarnation == 4
    assert joined(members, "m", role="learner").incarnation == 5
    for late in (3, 4, 2**40):
        with pytest.raises(RefusedError, match="another process has taken"):
            come_back(members, f"late {late}", 0, late)


@pytest.mark.parametrize(("role", "within_s"), [("actor", 5.0), ("learner", 60.0)])
def test_a_working_process_is_not_replaced(role: str, within_s: float) -> None:
    members = table(connected=True)
    first = joined(members, "a", role=role, number=0)
    for now in (0.0, within_s):
        with pytest.raises(UnauthorisedError, match="is part of the run and active"):
            joined(members, "b", role=role, number=0, now=now)
    assert not first.left
    assert joined(members, "b", role=role, number=0, now=within_s + 0.1) is not first
    assert first.left


def test_a_process_that_sent_bye_is_replaced_at_once() -> None:
    members = table(connected=True)
    joined(members, "a", number=3)
    members.bye("a")
    assert joined(members, "b", number=3).incarnation == 2


EAST, WEST, LEARNER = User("actor-east", "actor"), User("actor-west", "actor"), User("learner", "learner")


def test_a_key_joins_as_its_own_role_only_and_a_revoked_one_not_at_all() -> None:
    members = table()
    values = ACTOR | {"rank": 0, "secret": "s"}
    for user, role in ((EAST, "learner"), (LEARNER, "actor"), (EAST, "ingest"), (EAST, "operator")):
        with pytest.raises(UnauthorisedError) as caught:
            members.join(b"r", messages.Hello(role, -1, "t", -1), values, 0.0, user)
        assert caught.value.reason == "role"
    with pytest.raises(UnauthorisedError) as caught:
        members.join(b"r", messages.Hello("actor", -1, "t", -1), values, 0.0, REVOKED)
    assert caught.value.reason == "revoked"
    assert list(members.everyone()) == []


def test_a_process_must_keep_the_key_that_it_joined_with() -> None:
    members = table()
    hello = messages.Hello("actor", -1, "t", -1)
    member, _ = members.join(b"east", hello, ACTOR, 0.0, EAST)
    attempts: list[Callable[[], object]] = [
        lambda: members.join(b"west", hello, ACTOR, 1.0, WEST),
        lambda: members.heard(b"west", "t", {}, 1.0, WEST),
        lambda: members.bye("t", WEST),
    ]
    for attempt in attempts:
        with pytest.raises(UnauthorisedError) as caught:
            attempt()
        assert caught.value.reason == "identity"
    assert (member.route, member.left, member.heard) == (b"east", False, 0.0)
    assert members.sessions()["actors"] == {"0": [1, "t", "actor-east"]}


def test_live_actors_that_began_alike_are_twins_and_those_that_tell_nothing_are_not() -> None:
    members = table()
    first = joined(members, "a", stream="1f")
    second, third, fourth = (joined(members, token, stream=stream) for token, stream in (("b", "2e"), ("c", "1f"), ("d", "")))
    fifth = joined(members, "e")  # of an older version, which says nothing
    assert [twin_of(member, members.actors) for member in (first, second, third, fourth, fifth)] == [
        third,
        None,
        first,
        None,
        None,
    ]
    shown = {entry["actor_id"]: entry.get("began_like") for entry in actors_of(members, {})}
    assert shown == {0: 2, 1: None, 2: 0, 3: None, 4: None}
    members.bye("c")
    assert twin_of(first, members.actors) is None
    again = joined(members, "f", number=0, stream="1f")  # a restart begins as before
    assert twin_of(again, members.actors) is None
