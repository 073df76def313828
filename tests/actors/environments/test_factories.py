"""What a user's function is given: seed, index and number of copies."""

from __future__ import annotations

from actors.environments.make import make_environment
from actors.settings import FactoryEnv

OWN = "tests.actors.environments.own_seeds"


def own(name: str, **kwargs: int) -> FactoryEnv:
    return FactoryEnv(factory=f"{OWN}:{name}", kwargs=kwargs)


def test_a_function_gets_a_seed_and_an_index_of_its_own_for_each_copy() -> None:
    first = make_environment(own("Draws"), copies=3, seed=1, first_index=6).reset().copy()
    second = make_environment(own("Draws"), copies=3, seed=2, first_index=9).reset().copy()
    assert first[:, 1].tolist() == [6, 7, 8]
    assert second[:, 1].tolist() == [9, 10, 11]
    seeds = {*first[:, 0], *second[:, 0]}
    assert len(seeds) == 6, "every copy of every actor has another seed"
    again = make_environment(own("Draws"), copies=3, seed=1, first_index=6).reset()
    assert (again == first).all(), "the same root gives the same seeds"


def test_an_argument_that_the_user_has_set_is_left_alone() -> None:
    assert make_environment(own("Draws", seed=5), copies=2, seed=1).reset()[:, 0].tolist() == [5, 5]


def test_a_function_that_builds_all_copies_gets_one_seed_to_count_on_from() -> None:
    shown = [make_environment(own("vector"), copies=3, seed=root).reset().copy() for root in (1, 2)]
    for observations in shown:
        assert ((observations[:, 0] - observations[0, 0]) % 1_000_000).tolist() == [0, 1, 2]
    assert shown[0][0, 0] != shown[1][0, 0]
