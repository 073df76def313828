"""What is read from `info`: which values, under which names, and from which step of every kind of environment."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from actors.environments.base import Episode
from actors.environments.boundary import info_of
from actors.environments.checks import first_observations
from actors.environments.infos import flat, names_of, of_agents, read, row_of
from actors.environments.make import describe, make_environment
from actors.settings import FactoryEnv
from oatmill.errors import UserError

OWN = "tests.actors.environments.info_environments"
MODES = [mode.name for mode in AutoresetMode]


def played(env: FactoryEnv, *, copies: int, steps: int) -> list[Episode]:
    environment = make_environment(env, copies=copies, seed=1)
    first_observations(environment)
    episodes: list[Episode] = []
    for _ in range(steps):
        episodes += environment.step(np.zeros(copies, np.int64)).episodes
    environment.close()
    return episodes


def test_an_info_that_contains_itself_or_a_very_large_integer_is_read() -> None:
    info: dict[str, Any] = {"a": 1, "huge": 10**400, "in": {"b": 2}}
    info["me"] = info
    info["in"]["up"] = info
    assert dict(flat(info)) == {"a": 1, "in.b": 2}
    deep: dict[str, Any] = {"a": 1}
    for _ in range(2000):
        deep = {"in": deep, "b": 2}
    assert dict(flat(deep))["b"] == 2


@pytest.mark.parametrize(
    ("length", "metrics", "error"),
    [(1, (), ValueError), (9, (), ValueError), (9, ("n*",), UserError)],
    ids=["at an episode's end", "before it, for masks", "before the run, for names"],
)
def test_an_info_of_a_step_that_is_no_mapping_is_named(length: int, metrics: tuple[str, ...], error: type[Exception]) -> None:
    env = FactoryEnv(factory=f"{OWN}:listed", kwargs={"length": length}, info_metrics=metrics)
    with pytest.raises(error, match=r"expected step to return info as a mapping, such as \{\}, got \[1, 2\] \(list\)"):
        played(env, copies=1, steps=1)
    assert info_of(None) == {}


def test_numbers_and_booleans_are_read_whatever_they_are_wrapped_in() -> None:
    info: dict[str, Any] = {
        "a": True, "b": 3, "c": 2.5, "d": np.float32(0.5), "e": np.array([4]), "f": np.array(True),
        "in": {"g": 6, "in": {"h": 7}},
        "text": "9", "none": None, "list": [1], "vector": np.zeros(2), "nan": np.nan, "inf": -np.inf, "huge": 1e300,
    }  # fmt: skip
    expected = {"a": 1, "b": 3, "c": 2.5, "d": 0.5, "e": 4, "f": 1, "in.g": 6, "in.in.h": 7}
    assert dict(flat(info)) == expected
    np.testing.assert_array_equal(read(("c", "nan", "in.g", "nothing"), info), [2.5, np.nan, 6, np.nan])
    assert read((), info) == ()


def test_names_are_the_usual_ones_those_that_are_named_and_those_that_match() -> None:
    infos: list[dict[str, Any]] = [{"x_b": 1, "x_a": 2, "y": 3, "x_text": "4"}, {"x_c": 5}]
    assert names_of(["z", "x_*", "score"], infos, "it") == ("is_success", "score", "z", "x_a", "x_b", "x_c")
    assert names_of(["x_[ab]", "?"], infos, "it") == ("is_success", "score", "x_a", "x_b", "y")


def test_one_copy_is_taken_out_of_a_vector_environments_info() -> None:
    infos = {
        "everywhere": np.array([1.0, 2.0]), "here": np.array([3.0, 0.0]), "_here": np.array([True, False]),
        "inside": {"x": np.array([5, 6]), "_x": np.array([False, True])}, "of all": 7,
    }  # fmt: skip
    assert [dict(flat(row_of(infos, row))) for row in (0, 1)] == [
        {"everywhere": 1, "here": 3}, {"everywhere": 2, "inside.x": 6}
    ]  # fmt: skip
    ended = infos | {"final_info": {"here": np.array([0.0, 9.0])}, "_final_info": np.array([False, True])}
    assert [dict(flat(row_of(ended, row))) for row in (0, 1)] == [{"everywhere": 1, "here": 3}, {"here": 9}]
    older = infos | {"final_info": np.array([None, {"here": 9.0}], object), "_final_info": np.array([False, True])}
    assert dict(flat(row_of(older, 1))) == {"here": 9}


def test_agents_have_a_mean_and_their_own_numbers() -> None:
    infos: Any = {"a": {"x": 1, "in": {"y": True}}, 2: {"x": 4.0, "text": "5"}, "silent": None}
    assert of_agents(infos) == {"x": 2.5, "in.y": 1, "a.x": 1, "a.in.y": 1, "2.x": 4}
    assert of_agents(None) == of_agents({}) == {}


@pytest.mark.parametrize("ends", ["terminated", "truncated"])
@pytest.mark.parametrize("how", ["Scores", *MODES])
def test_an_episodes_numbers_are_those_of_its_own_last_step(how: str, ends: str) -> None:
    if how == "Scores":
        env = FactoryEnv(factory=f"{OWN}:Scores", kwargs={"ends": ends}, info_metrics=["parts.depth"])
    else:
        env = FactoryEnv(factory=f"{OWN}:vector", kwargs={"mode": how, "ends": ends}, info_metrics=["parts.depth"])
    episodes = [episode for episode in played(env, copies=2, steps=13) if episode.copy == 0][:4]
    # By hand: episode e of two steps has score 10 e + 2, and is_success only if e is even, true for 4.
    expected = [(np.nan, 12, 7), (0, 22, 7), (np.nan, 32, 7), (1, 42, 7)]
    np.testing.assert_array_equal([episode.statistics for episode in episodes], expected)


@pytest.mark.parametrize("env", [f"{OWN}:Scores", f"{OWN}:vector"])
def test_patterns_are_matched_with_one_step_and_the_names_stay(env: str) -> None:
    kwargs = {"mode": "SAME_STEP"} if env.endswith("vector") else {}
    settings = FactoryEnv(factory=env, kwargs=kwargs, info_metrics=["reward_*", "parts.*"])
    names = ("is_success", "score", "parts.deeper.x", "parts.depth", "reward_live", "reward_run")
    assert describe(settings)[1] == names
    np.testing.assert_array_equal(played(settings, copies=1, steps=2)[0].statistics, (np.nan, 12, 8, 7, 2, 0.5))


def test_too_many_names_are_refused() -> None:
    with pytest.raises(UserError, match=r"to name or match at most 64 numbers of info, got 102; name fewer$"):
        make_environment(FactoryEnv(factory=f"{OWN}:many", info_metrics=["n*"]), copies=1, seed=1)
