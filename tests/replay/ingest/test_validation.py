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
from tests.learner.worlds import make_action
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


WITH_NUMBERS = make_action((3,), numbers=2)
"""A row is a choice and two numbers; a policy's is three logits, two means and two log stds."""


def with_numbers(**changed: Array) -> dict[str, Array]:
    content = {"actions": np.zeros((2, 2, 3), np.float32), "behaviour_logits": np.zeros((2, 2, 7), np.float32)}
    return fields(**(content | changed))


def edited(name: str, column: int, value: float) -> dict[str, Array]:
    changed = with_numbers()
    changed[name][1, 0, column] = value
    return changed


@pytest.mark.parametrize(
    ("name", "column", "value"),
    [
        ("actions", 0, 2),
        ("actions", 1, -12.6),
        ("behaviour_logits", 3, 12.6),
        ("behaviour_logits", 5, -20),
        ("behaviour_logits", 6, 5),
    ],
)
def test_numbers_that_a_gaussian_can_draw_pass(name: str, column: int, value: float) -> None:
    content = edited(name, column, value)
    content["actions"][1, 0, 1] = content["behaviour_logits"][1, 0, 3] if column == 5 else content["actions"][1, 0, 1]
    Validator(WITH_NUMBERS, 10.0).check(content)


@pytest.mark.parametrize(
    ("name", "column", "value", "says"),
    [
        ("actions", 0, 3, r"action_range: expected actions in \[0, \[3\]\), got 0 to \[3\]"),
        ("actions", 0, 0.5, r"action_range: expected choices that are whole numbers in \[0, \[3\]\), got 0.0 to 0.5"),
        ("actions", 0, -1, r"action_range: expected choices that are whole numbers"),
        ("actions", 0, 3e9, r"action_range: expected choices that are whole numbers"),
        ("actions", 2, np.nan, r"non_finite: actions contains a number that is not finite"),
        ("actions", 2, 12.7, r"behaviour: expected actions that can be sampled, got one 12.7 deviations from its mean"),
        ("behaviour_logits", 4, -12.7, r"behaviour: expected actions that can be sampled, got one 12.7 deviations"),
        ("behaviour_logits", 4, np.inf, r"non_finite: behaviour_logits"),
        ("behaviour_logits", 5, -20.1, r"behaviour: expected log stds within -20 to 5, got -20.1 to 0"),
        ("behaviour_logits", 6, 5.1, r"behaviour: expected log stds within -20 to 5, got 0 to 5.1"),
        ("behaviour_logits", 1, 81, r"behaviour: expected actions that can be sampled, got one 81 nats below"),
    ],
)
def test_numbers_that_no_gaussian_draws_are_refused_by_their_reason(name: str, column: int, value: float, says: str) -> None:
    content = edited(name, column, value)
    with pytest.raises(WireError, match=says):
        Validator(WITH_NUMBERS, 10.0).check(content)
    if "non_finite" not in says:  # a step at which the agent was absent says nothing
        content["valid"][1, 0] = False
        if name == "behaviour_logits" or column:
            Validator(WITH_NUMBERS, 10.0).check(content)


def test_numbers_alone_have_no_choices_to_check() -> None:
    validator = Validator(make_action((), numbers=1), 10.0)
    content = {"actions": np.full((2, 2, 1), 3.0, np.float32), "behaviour_logits": np.zeros((2, 2, 2), np.float32)}
    validator.check(fields(**content))
    content["actions"][0, 1] = 13
    with pytest.raises(WireError, match="behaviour"):
        validator.check(fields(**content))


def masked(mask: Array, **changed: Array) -> dict[str, Array]:
    """A block of two trajectories of two steps, with masks of the three observations of each."""
    return fields(**changed) | {"observations/action_mask": mask}


def test_an_action_that_the_mask_does_not_allow_is_refused_where_the_agent_was_present() -> None:
    validator = Validator(ActionSpace((3,)), 1.0)
    actions = np.array([[0, 1], [2, 2]], np.int32)
    mask = np.zeros((2, 3, 3), np.bool_)
    np.put_along_axis(mask[:, :2], actions[..., None], values=True, axis=-1)  # that action alone; nothing at the end
    validator.check(masked(mask, actions=actions))
    mask[1, 1] = (True, True, False)
    with pytest.raises(WireError, match="masked_action: expected actions that the mask allows, got 2 in row 1, step 1"):
        validator.check(masked(mask, actions=actions))
    valid = np.array([[True, True], [True, False]])
    validator.check(masked(mask, actions=actions, valid=valid))
    mask[0, 0] = False  # nothing is allowed, so what was done is not
    with pytest.raises(WireError, match="got 0 in row 0, step 0"):
        validator.check(masked(mask, actions=actions, valid=valid))


def test_each_factor_of_an_action_has_its_part_of_the_mask() -> None:
    validator = Validator(ActionSpace((3, 2), factored=True), 1.0)
    actions = np.zeros((2, 2, 2), np.int32)
    mask = np.ones((2, 3, 5), np.bool_)
    logits = np.zeros((2, 2, 5), np.float32)
    validator.check(masked(mask, actions=actions, behaviour_logits=logits))
    mask[0, 1] = (True, False, False, False, True)
    with pytest.raises(WireError, match="got 0 of factor 1 in row 0, step 1"):
        validator.check(masked(mask, actions=actions, behaviour_logits=logits))


def test_a_logit_that_is_not_allowed_makes_no_action_unlikely() -> None:
    # The learner masks it, so it does not count whatever the actor says of it; an allowed one does.
    validator = Validator(ActionSpace((3,)), 1.0)
    mask = np.tile(np.array([True, True, False]), (2, 3, 1))
    logits = np.tile(np.array([0, 0, 500], np.float32), (2, 2, 1))
    actions = np.zeros((2, 2), np.int32)
    validator.check(masked(mask, actions=actions, behaviour_logits=logits))
    logits[..., 1] = 500
    with pytest.raises(WireError, match="behaviour: expected actions that can be sampled, got one 500 nats below"):
        validator.check(masked(mask, actions=actions, behaviour_logits=logits))
    logits[..., :2] = -1e20  # lower than what stands for a choice that is not allowed
    with pytest.raises(WireError, match="behaviour: expected actions that can be sampled"):
        validator.check(masked(mask, actions=actions, behaviour_logits=logits))
