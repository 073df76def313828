"""Action masks out of Dict observations and `info`, in each of the forms that people use, and bad ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from actors.environments.base import Environment
from actors.environments.checks import first_observations
from actors.environments.make import make_environment
from actors.policy import ActingPolicy
from actors.settings import FactoryEnv, GymnasiumEnv
from actors.unroll import Unroller
from agent.settings import AgentSettings
from agent.spec import AgentSpec
from oatmill.errors import RunError, UserError
from protocol.data.spaces import DictSpace, ObservationSpace
from protocol.data.trajectory import TrajectoryBlock
from recipes import cartpole
from runner.plan_report import report_plan
from tests.actors.environments.test_boundary import started

MODULE = "tests.actors.environments.masked_environments"


def masked(how: str, *sizes: int) -> FactoryEnv:
    return FactoryEnv(factory=f"{MODULE}:Masked", kwargs={"how": how, "sizes": sizes or (4,)})


def unrolled(environment: Environment, observations: Any, steps: int = 12) -> TrajectoryBlock:
    """An unroll under a network's first random weights."""
    spec = AgentSpec(environment.spaces, AgentSettings(hidden_sizes=(8,)))
    block = Unroller(environment, observations, ActingPolicy(spec, environment.num_rows, 0), steps).collect(lambda: True)
    assert block is not None
    return block


@pytest.mark.parametrize("how", ["info", "dict", "bool", "float"])
def test_a_mask_is_a_key_of_the_observation_wherever_it_comes_from(how: str) -> None:
    environment = started(masked(how), copies=2)
    keys = {"observation": ObservationSpace("vector", (1,), "float32"), "action_mask": ObservationSpace("mask", (4,), "bool")}
    assert environment.spaces.observation == DictSpace.of(keys)
    first = environment.reset()
    assert first["action_mask"].tolist() == [[True, True, False, False]] * 2
    step = environment.step(np.array([0, 1]))
    assert step.observations["action_mask"].tolist() == [[False, True, True, False]] * 2
    environment.step(np.array([1, 2]))
    ended = environment.step(np.array([2, 3]))
    assert ended.terminated.all()
    assert ended.observations["action_mask"].tolist() == [[True, True, False, False]] * 2  # the next episode's first


@pytest.mark.parametrize("how", ["info", "tuple", "dict"])
def test_each_factor_has_its_part_of_a_flat_mask_or_an_array_of_a_tuple(how: str) -> None:
    environment = started(masked(how, 3, 4), copies=1)
    masks = environment.step(np.array([[0, 1]])).observations["action_mask"]
    assert masks.tolist() == [[False, True, True, False, True, True, False]]


@pytest.mark.parametrize("mode", ["SAME_STEP", "NEXT_STEP", "DISABLED"])
@pytest.mark.parametrize("how", ["info", "dict"])
def test_a_network_takes_allowed_actions_alone_in_every_kind_of_vector_env(how: str, mode: str) -> None:
    settings = FactoryEnv(factory=f"{MODULE}:make_masked_vector", kwargs={"how": how, "mode": mode})
    environment = started(settings, copies=3)
    block = unrolled(environment, environment.reset())  # the environment asserts that each action is allowed
    allowed, taken = block.observations["action_mask"][:, :-1], block.actions
    assert np.take_along_axis(allowed, taken[..., None], -1)[block.valid].all()
    assert (block.behaviour_logits[~allowed] == np.float32(-1e9)).all()
    steps = block.observations["observation"][:, :-1, 0].astype(int)
    expected = (np.arange(4) == (steps[..., None] % 4)) | (np.arange(4) == ((steps[..., None] + 1) % 4))
    assert (allowed == expected)[block.valid].all()


@pytest.mark.parametrize("sizes", [(4,), (3, 4)])
def test_a_network_takes_allowed_actions_alone_copy_by_copy(sizes: tuple[int, ...]) -> None:
    environment = started(masked("info", *sizes), copies=4)
    assert unrolled(environment, environment.reset(), 40).valid.all()


def test_a_mask_in_info_stands_beside_the_keys_of_a_dict() -> None:
    environment = started(FactoryEnv(factory=f"{MODULE}:ColourAndMask"), copies=2)
    assert [path for path, _ in environment.spaces.observation.parts] == ["action_mask", "colour", "seen"]
    assert environment.spaces.masked


@pytest.mark.parametrize("function", ["Foreign", "make_foreign_vector"])
@pytest.mark.parametrize(
    ("how", "given"), [("plural", 'info["action_masks"]'), ("method", "the method action_masks()"), ("none", "")]
)
def test_masks_in_the_form_of_another_library_are_told_once(
    function: str, how: str, given: str, caplog: pytest.LogCaptureFixture
) -> None:
    environment = started(FactoryEnv(factory=f"{MODULE}:{function}", kwargs={"how": how}), copies=2)
    environment.reset()
    for _ in range(5):
        environment.step(np.array([0, 0]))
    said = [record.getMessage() for record in caplog.records if "action_mask" in record.getMessage()]
    assert not environment.spaces.masked
    assert [f"{given} is not read, so all actions are taken as allowed" in line for line in said] == ([True] if given else [])


@pytest.mark.parametrize(("how", "differ"), [("dict", False), ("other dict", True)])
def test_the_mask_in_the_observation_counts_and_another_one_in_info_is_told_once(
    how: str, differ: bool, caplog: pytest.LogCaptureFixture
) -> None:
    environment = started(FactoryEnv(factory=f"{MODULE}:Twice", kwargs={"how": how}), copies=2)
    assert environment.reset()["action_mask"].tolist() == [[True, True, False, False]] * 2
    environment.step(np.array([0, 0]))
    assert sum("differ; the observation counts, and info is not read" in line for line in caplog.messages) == differ


def test_a_plan_notes_masks_that_are_not_read() -> None:
    settings = cartpole.settings()
    settings.env = FactoryEnv(factory=f"{MODULE}:Foreign", kwargs={"how": "plural"})
    assert any('info["action_masks"] is not read' in note for note in report_plan(settings).notes)


def test_taxi_of_gymnasium_brings_its_mask() -> None:
    environment = started(GymnasiumEnv(id="Taxi-v4"), copies=2)
    assert dict(environment.spaces.observation.parts)["action_mask"].shape == (6,)
    assert unrolled(environment, environment.reset(), 50).valid.all()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (masked("long"), 'expected info["action_mask"] of shape (4,), got (5,)'),
        (masked("twos"), 'info["action_mask"] of whole numbers from 0 to 1'),
        (masked("text"), 'expected info["action_mask"] of numbers'),
        (masked("long in dict"), "expected action_mask to have 4 entries, one for each choice, got 5"),
        (masked("box actions"), 'expected no info["action_mask"], because continuous actions cannot be masked'),
    ],
)
def test_a_mask_of_another_form_is_refused_in_one_line_at_the_start(settings: FactoryEnv, says: str) -> None:
    with pytest.raises(UserError) as caught:
        first_observations(make_environment(settings, copies=2, seed=0))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("nothing", "expected an action_mask that allows at least one choice, got none in row 0; end the episode"),
        ("nothing in dict", "expected an action_mask that allows at least one choice, got none in row 0; end the episode"),
        ("late", 'expected info["action_mask"] in every reset and step or in none, and it came now'),
        ("lost", 'expected info["action_mask"] in every reset and step or in none, and it is missing now'),
    ],
)
def test_a_mask_that_goes_wrong_during_the_run_is_one_line(how: str, says: str) -> None:
    environment = started(masked(how), copies=2)
    with pytest.raises(RunError) as caught:
        unrolled(environment, environment.reset())
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_factor_without_a_choice_is_named() -> None:
    environment = started(masked("nothing", 3, 4), copies=1)
    with pytest.raises(ValueError, match="at least one choice of factor 0, got none in row 0"):
        environment.step(np.array([[0, 1]]))
