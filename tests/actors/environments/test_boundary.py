"""What passes between an environment and the rows that are trained on: copied both ways, and checked before it is cast."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

from actors.environments.base import Environment, Episode
from actors.environments.boundary import MAX_SEED, VectorBoundary, copy_seeds, vector_seed
from actors.environments.checks import first_observations
from actors.environments.make import make_environment
from actors.environments.spaces.observations import raw_space
from actors.settings import EnvSettings, FactoryEnv, PettingZooEnv
from actors.unroll import Unroller
from oatmill.errors import UserError
from tests.actors.environments.scripted import Scripted
from tests.actors.test_unroll import make_unroller

SCRIPTED = "tests.actors.environments.scripted"


def own(function: str, **kwargs: Any) -> FactoryEnv:
    return FactoryEnv(factory=f"{SCRIPTED}:{function}", kwargs=kwargs)


def team(function: str, **kwargs: Any) -> PettingZooEnv:
    return PettingZooEnv(factory=f"{SCRIPTED}:{function}", kwargs=kwargs)


def started(settings: EnvSettings, copies: int) -> Environment:
    environment = make_environment(settings, copies=copies, seed=0)
    first_observations(environment)
    return environment


def unrolled(settings: EnvSettings, copies: int, steps: int = 4) -> Any:
    unroller: Unroller = make_unroller(settings, copies=copies, steps=steps)[0]
    return unroller.collect(lambda: True)


FLAGS = ["bool", "uint8", "int64", "float32"]
SAME_STEP_SHOWN = [[1, 0, 1, 0, 1, 0], [1, 2, 0, 1, 2, 0]]
SAME_STEP_ENDED = [[0, 1, 0, 1, 0, 1], [0, 0, 1, 0, 0, 1]]
EPISODES = [Episode(3.0, 2), Episode(36.0, 3)]
"""Copy 0 pays 1 + 2 in two steps, copy 1 pays 11 + 12 + 13 in three."""


@pytest.mark.parametrize("ends", ["truncated", "terminated"])
@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("mode", ["SAME_STEP", "DISABLED"])
def test_a_vector_env_that_resets_at_once_may_have_flags_and_buffers_of_its_own(mode: str, flags: str, ends: str) -> None:
    block = unrolled(own("Scripted", mode=mode, flags=flags, ends=ends), copies=2, steps=6)
    assert block.observations[:, 1:, 0].tolist() == SAME_STEP_SHOWN
    assert block.rewards.tolist() == [[1, 2, 1, 2, 1, 2], [11, 12, 13, 11, 12, 13]]
    assert getattr(block, ends).astype(int).tolist() == SAME_STEP_ENDED
    assert not getattr(block, "terminated" if ends == "truncated" else "truncated").any()
    assert block.valid.all()
    assert block.episode_return.tolist() == [3, 36, 3, 3, 36]
    assert block.episode_length.tolist() == [2, 3, 2, 2, 3]
    if ends == "terminated":
        assert not len(block.final_step)
        return
    finals = zip(block.final_step.tolist(), block.final_trajectory.tolist(), block.final_observations[:, 0], strict=True)
    assert list(finals) == [(1, 0, 2), (2, 1, 3), (3, 0, 2), (5, 0, 2), (5, 1, 3)]


@pytest.mark.parametrize("ends", ["truncated", "terminated"])
@pytest.mark.parametrize("flags", FLAGS)
def test_a_vector_env_that_resets_in_the_next_step_may_have_flags_and_buffers_of_its_own(flags: str, ends: str) -> None:
    block = unrolled(own("Scripted", mode="NEXT_STEP", flags=flags, ends=ends), copies=2, steps=7)
    absent = np.array([[0, 0, 1, 0, 0, 1, 0], [0, 0, 0, 1, 0, 0, 0]], bool)
    over = np.array([[0, 1, 0, 0, 1, 0, 0], [0, 0, 1, 0, 0, 0, 1]], bool)
    assert block.observations[:, 1:, 0].tolist() == [[1, 2, 0, 1, 2, 0, 1], [1, 2, 3, 0, 1, 2, 3]]
    assert block.rewards.tolist() == [[1, 2, 0, 1, 2, 0, 1], [11, 12, 13, 0, 11, 12, 13]]
    np.testing.assert_array_equal(block.valid, ~absent)
    np.testing.assert_array_equal(block.terminated, absent | over if ends == "terminated" else absent)
    np.testing.assert_array_equal(block.truncated, over & (ends == "truncated"))
    assert block.episode_return.tolist() == [3, 36, 3, 36]
    assert block.episode_length.tolist() == [2, 3, 2, 3]
    assert block.final_observations[:, 0].tolist() == ([2, 3, 2, 3] if ends == "truncated" else [])


@pytest.mark.parametrize("change", ["lists", "columns", "tensors", "float64 observations", "older name"])
def test_what_converts_safely_is_converted(change: str) -> None:
    environment = started(own("Scripted", mode="SAME_STEP", change=change), copies=2)
    steps = [environment.step(np.zeros(2, np.int64)) for _ in range(3)]
    assert [step.observations[:, 0].tolist() for step in steps] == [[1, 1], [0, 2], [1, 0]]
    assert [step.rewards.tolist() for step in steps] == [[1, 11], [2, 12], [1, 13]]
    assert [step.final_observations.tolist() for step in steps] == [[], [[2]], [[3]]]
    assert [episode for step in steps for episode in step.episodes] == EPISODES
    for step in steps:
        arrays = (step.observations, step.rewards, step.terminated, step.truncated, step.valid)
        assert [str(array.dtype) for array in arrays] == ["float32", "float32", "bool", "bool", "bool"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("one observation", r"expected observations of shape \(2, 1\), got \(1,\)"),
        ("wide observations", r"expected observations of shape \(2, 1\), got \(2, 3\)"),
        ("one reward", r"expected rewards of numbers in shape \(2,\), got np.float32\(1.0\) \(float32\) of shape \(\)"),
        ("rewards of a table", r"expected rewards of numbers in shape \(2,\), got .* of shape \(2, 2\)"),
        ("no rewards", r"expected rewards of numbers, got None \(NoneType\)"),
        ("flags of 2", "expected terminated of True or False, got 2 in row 0"),
        ("flags of text", r"expected truncated of True or False, got \['False', 'False'\] \(list\)"),
        ("no final", r'expected infos\["final_obs"\] in a step that truncates'),
        ("scalar finals", r'expected infos\["final_obs"\]\[0\] of shape \(1,\), got \(\)'),
        ("few finals", r'expected infos\["final_obs"\] to have an entry for each of 2 copies, got array\(\[\[0'),
        ("empty finals", r'expected infos\["final_obs"\]\[0\] of numbers, got None \(NoneType\)'),
        ("four values", r"expected step to return 5 values \(observation, reward, .*\), got 4 values"),
    ],
)
def test_what_does_not_convert_is_named_with_what_came(change: str, says: str) -> None:
    environment = started(own("Scripted", mode="SAME_STEP", flags="int64", change=change), copies=2)
    with pytest.raises(ValueError, match=says):
        [environment.step(np.zeros(2, np.int64)) for _ in range(2)]


@pytest.mark.parametrize(
    ("settings", "copies"),
    [(own("ChangesActions"), 2), (own("VectorChangesActions"), 2), (team("ParallelChangesActions"), 1)],
    ids=["Env", "VectorEnv", "PettingZoo"],
)
def test_an_environment_that_changes_its_action_in_place_changes_nothing_that_is_trained_on(
    settings: EnvSettings, copies: int
) -> None:
    block = unrolled(settings, copies)
    assert block.actions.max() <= 2
    assert len(np.unique(block.actions)) > 1
    np.testing.assert_array_equal(block.rewards, block.actions.sum(-1))


@pytest.mark.parametrize(
    ("space", "good", "bad", "says"),
    [
        (Box(0, 255, (2,), np.uint8), [0, 1], [0.0, 0.5], "as a Box of uint8 and shape (2,) says, got 0.5 in row 1, index 1"),
        (Box(0, 255, (2,), np.uint8), [0, 1], [300, 0], "got 300 in row 1, index 0"),
        (Box(0, 255, (2,), np.uint8), [0, 1], [0, -1], "got -1 in row 1, index 1"),
        (Box(0, 255, (2,), np.uint8), [0, 1], [np.nan, 0], "got nan in row 1, index 0"),
        (Box(0, 255, (5, 7, 3), np.uint8), np.zeros((5, 7, 3)), np.full((5, 7, 3), 0.1), "got 0.1 in row 1, index (0, 0, 0)"),
        (Box(0, 9, (1,), np.int32), [0], [np.inf], "got inf in row 1, index 0"),
        (Box(0, 1, (2,), np.bool_), [0, 1], [0, 2], "from 0 to 1, as a Box of bool and shape (2,) says, got 2"),
        (Discrete(3), 2, -1, "from 0 to 2, as Discrete(3) says, got -1 in row 1"),
        (Discrete(3, start=5), 7, 8, "from 5 to 7, as Discrete(3, start=5) says, got 8 in row 1"),
        (Discrete(3), 2, 1.5, "got 1.5 in row 1"),
        (Discrete(3), 2, np.nan, "got nan in row 1"),
        (MultiDiscrete([2, 3]), [1, 2], [2, 0], "from 0 to 1, as MultiDiscrete([2 3]) says, got 2 in row 1, index 0"),
        (MultiDiscrete([2, 3]), [1, 2], [0, 3], "from 0 to 2, as MultiDiscrete([2 3]) says, got 3 in row 1, index 1"),
        (MultiBinary(2), [0, 1], [0, 2], "from 0 to 1, as MultiBinary(2) says, got 2 in row 1, index 1"),
    ],
    ids=str,
)  # fmt: skip
def test_whole_numbers_are_checked_before_they_are_cast(
    monkeypatch: pytest.MonkeyPatch, space: Any, good: Any, bad: Any, says: str
) -> None:
    from tests.actors.environments import scripted

    thens = iter([good, bad])
    monkeypatch.setattr(scripted, "make", lambda: scripted.Shows(space, good, next(thens)), raising=False)
    environment = started(own("make"), copies=2)
    with pytest.raises(ValueError, match=r"^expected (an observation|observations) of whole numbers from") as caught:
        environment.step(np.zeros(2, np.int64))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_a_vector_env_writes_into_its_buffers_later_does_not_reach_what_was_taken() -> None:
    env = Scripted("SAME_STEP")
    boundary = VectorBoundary(env, raw_space(env.single_observation_space), 0)
    first = boundary.reset()
    env.shown[:] = 50
    assert first.tolist() == [[0], [0]]
    taken = boundary.step(np.zeros(2, np.int64))
    env.shown[:], env.rewards[:], env.terminated[:], env.truncated[:] = 50, 50, 1, 1
    assert [values.tolist() for values in taken[:4]] == [[[1], [1]], [1, 11], [False, False], [False, False]]


def test_a_final_observation_is_checked_as_any_other() -> None:
    env = Scripted("SAME_STEP")
    env.single_observation_space = Discrete(2)
    boundary = VectorBoundary(env, raw_space(env.single_observation_space), 0)
    with pytest.raises(ValueError, match=r'expected infos\["final_obs"\] of whole numbers from 0 to 1, .* got 2 in row 0'):
        boundary.final_observations({"final_obs": np.array([2, 0])}, np.array([0]))


@pytest.mark.parametrize(
    ("step", "says"),
    [
        ((np.zeros(1), np.array([1.0, 2.0]), False, False, {}), r"expected a reward of one number, got array\(\[1., 2.\]\)"),
        ((np.zeros(1), None, False, False, {}), r"expected a reward of one number, got None \(NoneType\)"),
        ((np.zeros(1), "1.0", False, False, {}), r"expected a reward of one number, got '1.0' \(str\)"),
        ((np.zeros(1), 1.0, None, False, {}), r"expected terminated of True or False, got None \(NoneType\)"),
        ((np.zeros(1), 1.0, False, float("nan"), {}), "expected truncated of True or False, got nan"),
        ((None, 1.0, False, False, {}), r"expected an observation of numbers, got None \(NoneType\)"),
        ((np.zeros(1), 1.0, False, {}), r"got 4 values; old versions of Gym had one `done`: return terminated and trunc"),
        (3, r"expected step to return 5 values .* got 3 \(int\)"),
    ],
    ids=str,
)
def test_an_env_s_odd_values_are_named_with_what_came(step: Any, says: str) -> None:
    environment = started(own("Oddity", step=step), copies=1)
    with pytest.raises(ValueError, match=says):
        environment.step(np.zeros(1, np.int64))


@pytest.mark.parametrize(
    "reward", [np.array([2.0]), np.array(2.0), [2.0], torch.tensor(2.0, requires_grad=True), 2, np.float16(2)]
)
@pytest.mark.parametrize("flag", [True, np.True_, 1, np.array([True]), torch.tensor(1)])
def test_an_env_s_numbers_of_one_element_are_taken(reward: Any, flag: Any) -> None:
    environment = started(own("Oddity", step=[[4.0], reward, False, flag, None]), copies=1)
    step = environment.step(np.zeros(1, np.int64))
    assert (step.rewards.tolist(), step.truncated.tolist(), step.terminated.tolist()) == ([2.0], [True], [False])
    assert step.final_observations.tolist() == [[4.0]]


@pytest.mark.parametrize("outcome", [np.zeros(2, np.float32), (np.zeros(1, np.float32), {}, 1), 3])
def test_a_reset_that_returns_something_else_is_named(outcome: Any) -> None:
    with pytest.raises(
        UserError, match=r"raised in reset: ValueError: expected reset to return 2 values \(observation, info\)"
    ):
        started(own("Oddity", reset=outcome), copies=1)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("stranger at reset", r"agent 'c' is in agents, but not in possible_agents \['a', 'b'\] \(list\); name it there"),
        ("stranger", r"agent 'c' is in agents, but not in possible_agents"),
        ("no reward", r"expected rewards to have an entry for agent 'b', got \{'a': 1.0\} \(dict\)"),
        ("no observation", r"expected observations to have an entry for agent 'a', got \{\} \(dict\)"),
        ("reward for all", r"expected rewards to have an entry for agent 'a', got 1.0 \(float\)"),
        ("all at once", r"expected terminations to have an entry .*; '__all__' is RLlib's, give an entry for each agent"),
        ("wrong shape", r"expected an observation of agent 'b' of shape \(1,\), got \(2,\)"),
        (
            "out of range",
            r"expected an observation of agent 'b' of whole numbers from 0 to 0, as Discrete\(1\) .* got 1 in row 1",
        ),
        ("nobody possible", "expected possible_agents to name every agent that may take part, got none"),
    ],
)
def test_a_parallel_environments_odd_agents_are_named(how: str, says: str) -> None:
    with pytest.raises((ValueError, UserError), match=says):
        started(team("OddTeam", how=how), copies=1).step(np.zeros(2, np.int64))


def test_a_parallel_environments_rewards_may_be_arrays_of_one_number() -> None:
    step = started(team("OddTeam", how="rewards of arrays"), copies=1).step(np.zeros(2, np.int64))
    assert step.rewards.tolist() == [2.0, 2.0]
    assert step.episodes == [Episode(2.0, 1)]


def test_seeds_have_31_bits_and_so_have_those_that_a_vector_env_counts_on_to() -> None:
    roots = range(300)
    assert all(0 <= seed <= MAX_SEED for root in roots for seed in copy_seeds(root, 4))
    assert all(0 <= vector_seed(root, 2**30) <= MAX_SEED - 2**30 for root in roots)
    assert len({seed for root in roots for seed in copy_seeds(root, 4)}) == 1200
    # With 32 bits every second root gives one that is refused.
    started(own("Int32Seed"), copies=16)


def test_a_missing_module_that_is_nobodys_extra_is_named_without_a_hint_at_one() -> None:
    with pytest.raises(UserError, match=r"No module named 'no_such_module'.*install it, or start the command") as caught:
        make_environment(own("make_needy"), copies=1, seed=0)
    assert "oatmill[" not in str(caught.value)
