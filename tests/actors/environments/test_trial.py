"""A new environment is stepped with random allowed actions, so that a fault in `step` shows before a run starts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple

from actors.environments import trial
from actors.environments.base import Environment, Step
from actors.environments.checks import checked_step, first_observations
from actors.environments.make import make_environment
from actors.environments.spaces.actions import convert_action_space
from actors.environments.trial import STEPS, random_actions, try_steps
from actors.settings import FactoryEnv
from oatmill.errors import UserError
from protocol.data.actions import split_rows
from protocol.data.trajectory import Array

FOLDER = "tests.actors.environments"


def tried(factory: str, **kwargs: Any) -> None:
    environment = make_environment(FactoryEnv(factory=f"{FOLDER}.{factory}", kwargs=kwargs), copies=None, seed=0)
    try_steps(environment, first_observations(environment))


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (
            "raises in step",
            r"Fails raised in step: RuntimeError: the physics exploded \(.*toy_environments\.py:\d+, in step\)$",
        ),
        ("wrong shape in step", r"Fails raised in step: ValueError: expected an observation of shape \(1,\), got \(3,\)"),
        (
            "nan in step",
            r"Fails gave observations that are not finite \(NaN or infinity\): nan at index \[0, 0\], the row first$",
        ),
        ("infinite reward", r"Fails gave rewards that are not finite \(NaN or infinity\): inf at index \[0\]"),
    ],
)
def test_a_fault_in_step_is_refused_with_the_environments_name(how: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        tried("toy_environments:Fails", how=how)


@pytest.mark.parametrize("how", ["dict", "info", "tuple"])
def test_only_allowed_actions_are_taken(how: str) -> None:
    tried("masked_environments:Masked", how=how)  # raises if it is given another


def test_a_slow_environment_is_stepped_once(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Step] = []

    def counted(environment: Environment, actions: Array, error: type[UserError]) -> Step:
        taken.append(checked_step(environment, actions, error))
        return taken[-1]

    monkeypatch.setattr(trial, "checked_step", counted)
    tried("toy_environments:Counter")
    assert len(taken) == STEPS
    monkeypatch.setattr(trial, "LIMIT_S", -1.0)
    tried("toy_environments:Counter")
    assert len(taken) == STEPS + 1


@pytest.mark.parametrize(
    "space",
    [
        Discrete(3, start=5),
        MultiDiscrete([2, 4]),
        Box(np.array([-1.0, 5.0]), np.array([1.0, 9.0]), dtype=np.float64),
        Dict(turn=Discrete(2), push=Box(0.0, 3.0, (2, 2))),
        Tuple([Discrete(4), Box(-2.0, 2.0, (1,))]),
    ],
    ids=repr,
)
def test_random_actions_are_in_the_environments_space_and_differ(space: Any) -> None:
    conversion = convert_action_space(space, "it")
    action, rng = conversion.space, np.random.default_rng(0)
    actions = random_actions(action, 50, None, rng)
    assert actions.shape == (50, *action.shape)
    assert actions.dtype == np.dtype(action.dtype)
    given = split_rows(conversion.convert(actions), 50)
    assert all(space.contains(one if not isinstance(one, int) else np.int64(one)) for one in given)
    assert len({repr(one) for one in given}) > 1


def test_each_allowed_choice_is_taken_and_no_other_and_a_row_without_any_gets_some() -> None:
    action = convert_action_space(MultiDiscrete([3, 2]), "it").space
    mask = np.array([[1, 0, 1, 0, 1], [0, 0, 0, 0, 0]] * 100)
    actions = random_actions(action, 200, mask, np.random.default_rng(0))
    assert {tuple(row) for row in actions[::2].tolist()} == {(0, 1), (2, 1)}
    assert set(actions[1::2, 0].tolist()) == {0, 1, 2}
