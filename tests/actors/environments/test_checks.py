"""What an environment returns is checked: shapes, dtypes, finite numbers, and whether its copies and actors differ."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from actors.environments.checks import begin, first_observations
from actors.environments.make import describe, make_environment
from actors.settings import FactoryEnv, GymnasiumEnv
from oatmill.errors import UserCodeError, UserError
from tests.actors.test_unroll import make_unroller

FOLDER = "tests.actors.environments"


def own(function: str, **kwargs: Any) -> FactoryEnv:
    return FactoryEnv(factory=f"{FOLDER}.scripted:{function}", kwargs=kwargs)


def seeded(function: str) -> FactoryEnv:
    return FactoryEnv(factory=f"{FOLDER}.own_seeds:{function}")


def toy(function: str, **kwargs: Any) -> FactoryEnv:
    return FactoryEnv(factory=f"{FOLDER}.toy_environments:{function}", kwargs=kwargs)


def started(settings: FactoryEnv, copies: int) -> None:
    first_observations(make_environment(settings, copies=copies, seed=0))


def unrolled(settings: FactoryEnv, copies: int) -> None:
    make_unroller(settings, copies=copies, steps=4)[0].collect(lambda: True)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("raises in reset", "Fails raised in reset: OSError: the level file is gone"),
        ("nan in reset", "Fails: expected finite first observations, got NaN or infinity"),
        ("wrong shape in reset", "Fails raised in reset: ValueError: expected an observation of shape (1,), got (3,)"),
    ],
)
def test_broken_first_observations_are_refused_with_the_environments_name(how: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        describe(toy("Fails", how=how))
    assert says in str(caught.value)


def test_a_float_that_is_not_finite_is_named_by_row_step_and_index() -> None:
    fails = toy("Fails", how="nan in step")
    # Row 0, column 1 of the unroll (what the first step showed), number 0.
    with pytest.raises(UserCodeError, match=r"gave observations that are not finite .*: nan at index \[0, 1, 0\]"):
        unrolled(fails, copies=1)


@pytest.mark.parametrize(("name", "copies"), [("deaf", 1), ("deaf", 4), ("deaf_vector", 3), ("deaf_vector", 16)])
def test_actors_whose_environment_ignores_its_seed_have_the_same_stream(name: str, copies: int) -> None:
    streams = [begin(make_environment(seeded(name), copies=copies, seed=root)).stream for root in (1, 2)]
    assert streams[0] == streams[1] != ""


@pytest.mark.parametrize("copies", [1, 3, 16])
@pytest.mark.parametrize("env", [GymnasiumEnv(id="CartPole-v1"), seeded("Draws")], ids=["CartPole", "takes a seed"])
def test_actors_whose_environment_uses_its_seed_have_other_streams_or_none(env: GymnasiumEnv, copies: int) -> None:
    streams = [begin(make_environment(env, copies=copies, seed=root)).stream for root in (1, 2)]
    assert streams[0] != streams[1] or streams == ["", ""]


def test_environments_that_always_begin_alike_tell_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    env = toy("Counter")
    assert begin(make_environment(env, copies=16, seed=1)).stream == ""
    assert not caplog.records


def test_copies_that_do_not_heed_their_seeds_are_noticed_and_those_that_always_begin_alike_are_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        started(own("Int32Seed"), copies=3)
        started(own("Int32Seed", constant=True), copies=3)
        started(own("Int32Seed", deaf=True), copies=1)
        assert not caplog.messages
        started(own("Int32Seed", deaf=True), copies=3)
    (message,) = caplog.messages
    assert message.startswith(
        "env.factory=tests.actors.environments.scripted:Int32Seed: all 3 copies have the same first observations, and other"
    )
    assert "ignore the seed of reset" in message


def test_copies_with_equal_numbers_despite_different_actions_cause_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        unrolled(own("Int32Seed", constant=True), copies=3)
        unrolled(own("Int32Seed", constant=True, deaf=True), copies=1)
        unrolled(toy("Counter"), copies=3)  # pays for what is done
        unrolled(own("Oddity", step=(np.ones(1), 1.0, False, False, {})), copies=3)  # always gives the same
        assert not caplog.messages
        unroller, _ = make_unroller(own("Int32Seed", constant=True, deaf=True), copies=3, steps=4)
        unroller.collect(lambda: True)
        unroller.collect(lambda: True)
    (message,) = caplog.messages
    assert "all 3 copies had the same observations and rewards in their first 4 steps" in message


@pytest.fixture
def float32_again() -> Iterator[None]:
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("float32_again")
def test_an_environment_that_changes_torchs_default_dtype_is_refused() -> None:
    with pytest.raises(UserError, match=r"expected torch's default dtype to stay float32, .* got torch.float64; leave"):
        started(own("Doubles"), copies=1)
    torch.set_default_dtype(torch.float32)
    with pytest.raises(UserError, match="expected torch's default dtype to stay float32"):
        unrolled(own("Doubles", where="step"), copies=1)
