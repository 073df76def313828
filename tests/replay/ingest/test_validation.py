from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from oatmill.errors import WireError
from protocol.data.spaces import ActionSpace
from protocol.data.trajectory import Array
from replay.ingest.validation import Validator, not_finite, sums_of_squares
from tests.replay.blocks import SCHEMA, block


def first_not_finite(arrays: dict[str, Array]) -> str | None:
    return not_finite(arrays, sums_of_squares(arrays))


def fields(**changed: Array) -> dict[str, Array]:
    content = block(2)
    return {entry.name: np.array(getattr(content, entry.name)) for entry in SCHEMA.trajectory.fields} | changed


@given(arrays(st.sampled_from([np.float16, np.float32, np.float64]), st.integers(1, 40)))
def test_an_array_is_finite_if_every_number_in_it_is(values: Array) -> None:
    assert (first_not_finite({"whole": np.array([1]), "values": values}) is None) == bool(np.all(np.isfinite(values)))


def test_numbers_whose_squares_overflow_are_finite() -> None:
    assert first_not_finite({"values": np.array([3e38, -3e38], np.float32)}) is None  # the sum of their squares is infinite
    assert first_not_finite({"values": np.array([3e38, -3e38, np.nan], np.float32)}) == "values"


def test_what_an_episodes_info_did_not_have_is_nan_and_nothing_else_may_be() -> None:
    absent = np.array([[np.nan, 1.0], [np.nan, np.nan]], np.float32)
    assert first_not_finite({"episode_statistics": absent}) is None
    assert first_not_finite({"episode_statistics": absent[1:, :1]}) is None
    assert first_not_finite({"episode_statistics": np.array([[np.nan, np.inf]], np.float32)}) == "episode_statistics"
    assert first_not_finite({"episode_return": absent[:, 0]}) == "episode_return"


def test_a_sound_block_passes() -> None:
    Validator(ActionSpace((3,)), 1.0).check(fields())


def test_each_factor_of_an_action_has_its_own_range() -> None:
    validator = Validator(ActionSpace((3, 2), factored=True), 1.0)
    actions = np.zeros((2, 2, 2), np.int32)
    actions[0, 1] = (2, 1)
    logits = np.zeros((2, 2, 5), np.float32)
    validator.check(fields(actions=actions, behaviour_logits=logits))
    actions[1, 0] = (0, 2)  # the second factor has the choices 0 and 1
    with pytest.raises(WireError, match=r"action_range: expected actions in \[0, \[3 2\]\), got 0 to \[2 2\]"):
        validator.check(fields(actions=actions, behaviour_logits=logits))


def test_the_limit_of_rewards_comes_from_the_setting() -> None:
    rewards = np.array([[0.0, -2.5], [1.0, 2.5]], np.float32)
    Validator(ActionSpace((3,)), 2.5).check(fields(rewards=rewards))
    with pytest.raises(WireError, match=r"reward_bound: expected \|reward\| <= 2.4, got -2.5 to 2.5"):
        Validator(ActionSpace((3,)), 2.4).check(fields(rewards=rewards))
