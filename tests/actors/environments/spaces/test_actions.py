from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector.utils import iterate

from actors.environments.adapters.gymnasium import around_envs
from actors.environments.spaces.actions import convert_action_space
from oatmill.errors import UserError
from protocol.data.actions import split_rows
from protocol.data.spaces import ActionSpace
from protocol.data.trajectory import Array


def test_actions_are_counted_as_the_environment_counts_them() -> None:
    plain = convert_action_space(spaces.Discrete(3), "toy")
    assert plain.space == ActionSpace((3,))
    actions = np.array([0, 2])
    assert plain.convert(actions) is actions
    shifted = convert_action_space(spaces.Discrete(3, start=-1), "toy")
    assert shifted.convert(actions).tolist() == [-1, 1]


def test_actions_of_several_choices_are_factored() -> None:
    several = convert_action_space(spaces.MultiDiscrete([2, 3], start=[0, 10]), "toy")
    assert several.space == ActionSpace((2, 3), factored=True)
    assert several.convert(np.array([[1, 2]])).tolist() == [[1, 12]]
    assert convert_action_space(spaces.MultiBinary(3), "toy").space == ActionSpace((2, 2, 2), factored=True)


def test_numbers_reach_the_environment_in_its_own_units_and_within_its_bounds() -> None:
    box = spaces.Box(np.array([0, -2], np.float32), np.array([10, 0.1], np.float32))
    conversion = convert_action_space(box, "toy")
    assert conversion.space.dimensions == 2
    assert conversion.space.dtype == "float32"
    converted = conversion.convert(np.array([[-1, 1], [0, 0], [1, -1]], np.float32))
    # By hand: 0..10 has its middle at 5, -2..0.1 at -0.95.
    np.testing.assert_allclose(converted, np.array([[0, 0.1], [5, -0.95], [10, -2]]), rtol=1e-6)
    assert converted.dtype == np.float32
    assert all(action in box for action in converted)


def test_a_box_of_whole_numbers_gets_the_nearest_ones_in_its_own_shape() -> None:
    box = spaces.Box(0, 255, (2, 1), np.uint8)
    converted = convert_action_space(box, "toy").convert(np.array([[-1, 0.01], [1, 0.999]], np.float32))
    # By hand: 0.01 is 127.5 * 1.01 = 128.8.
    assert converted.tolist() == [[[0], [129]], [[255], [255]]]
    assert all(action in box for action in converted)


NESTED = spaces.Dict(
    {
        "move": spaces.Box(-2, 2, (2,), np.float32),
        "tools": spaces.Tuple((spaces.Discrete(3, start=1), spaces.MultiBinary(2), spaces.Box(0, 1, (1,), np.float64))),
        "gear": spaces.MultiDiscrete([4, 5]),
    }
)


def test_a_structure_comes_back_as_it_was_declared() -> None:
    conversion = convert_action_space(NESTED, "toy")
    # Choices stand first: gear's two (a Dict's keys are sorted), then the tools' 1 + 2; then the numbers.
    assert conversion.space.sizes == (4, 5, 3, 2, 2)
    row = np.array([[3, 4, 2, 1, 0, 0.5, -1, 1], [0, 0, 0, 0, 0, 0, 0, -1]], np.float32)
    first, second = split_rows(conversion.convert(row), 2)
    assert first["gear"].tolist() == [3, 4]
    assert first["move"].tolist() == [1, -2]
    assert (first["tools"][0], first["tools"][1].tolist(), first["tools"][2].tolist()) == (3, [1, 0], [1])
    assert first in NESTED
    assert second in NESTED


def test_a_vectorised_environment_takes_the_same_structure() -> None:
    converted = convert_action_space(NESTED, "toy").convert(np.zeros((3, 8), np.float32))
    from gymnasium.vector.utils import batch_space

    batched = batch_space(NESTED, 3)
    assert all(action in NESTED for action in iterate(batched, converted))


class Taking(gymnasium.Env[Any, Any]):  # type: ignore[misc]
    """Notes the actions that it is given, and writes over them."""

    def __init__(self, space: Any) -> None:
        self.observation_space = spaces.Box(-1, 1, (1,), np.float32)
        self.action_space = space
        self.taken: list[Any] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Array, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        self.taken.append(action.copy())
        action[:] = 7
        return np.zeros(1, np.float32), 0.0, False, False, {}


def test_an_environment_that_writes_into_its_action_changes_nothing() -> None:
    env = Taking(spaces.Box(-2, 2, (2,), np.float32))
    environment = around_envs([env], 0, "toy")
    environment.reset()
    actions = np.array([[0.25, -0.5]], np.float32)
    environment.step(actions)
    assert env.taken[0].tolist() == [0.5, -1.0]
    assert actions.tolist() == [[0.25, -0.5]]


@pytest.mark.parametrize(
    ("space", "says"),
    [
        (spaces.Box(-np.inf, 1, (2,), np.float32), "a Box action with finite bounds"),
        (spaces.Box(1, 1, (2,), np.float32), "low below high"),
        (spaces.Box(-3e38, 3e38, (2,), np.float32), ""),
        (spaces.Dict({"a": spaces.Box(0, np.inf, (2,), np.float32)}), "at a; give it bounds with"),
        (spaces.Tuple((spaces.Discrete(2**25), spaces.Box(0, 1, (1,)))), "at most 16,777,216 choices"),
        (spaces.Text(3), "an action space of Discrete, MultiDiscrete, MultiBinary or Box"),
        (spaces.Dict({}), "that is not empty"),
        (spaces.Dict({"a": spaces.Tuple((spaces.Text(3),))}), "at a.0; convert it with an ActionWrapper"),
    ],
)
def test_other_actions_are_refused_with_the_way_out(space: Any, says: str) -> None:
    if not says:
        assert convert_action_space(space, "env.id=Toy-v0").space.dimensions == 2
        return
    with pytest.raises(UserError, match=r"^env\.id=Toy-v0: expected ") as caught:
        convert_action_space(space, "env.id=Toy-v0")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
