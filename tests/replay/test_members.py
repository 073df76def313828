from __future__ import annotations

from typing import Any

import pytest

from protocol import messages
from protocol.errors import WireError
from replay.members import Member, Members, RefusedError
from tests.replay.blocks import SPACES

CONFIG = {"env.id": "Toy-v0"}
ACTOR = {"config": CONFIG, "spaces": SPACES.to_dict(), "episode_statistics": ["hearts"], "rows": 4}


def joined(
    members: Members, token: str, *, role: str = "actor", number: int = -1, now: float = 0.0, **description: Any
) -> Member:
    values = ACTOR | {"rank": 0, "secret": "s"} | description
    return members.join(token.encode(), messages.Hello(role, number, token), values, now)[0]


def table() -> Members:
    return Members(CONFIG, secret="s")


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


def test_another_process_under_the_same_number_is_the_next_incarnation_and_the_first_is_out() -> None:
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


def test_an_actor_that_is_silent_for_more_than_5_seconds_is_dead_until_it_speaks() -> None:
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


def test_every_change_of_who_lives_has_a_number() -> None:
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
def test_a_process_that_does_not_belong_is_refused(description: dict[str, Any], reason: str) -> None:
    members = table()
    with pytest.raises(RefusedError) as caught:
        joined(members, "a", **description)
    assert caught.value.reason == reason
    assert list(members.everyone()) == []


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
