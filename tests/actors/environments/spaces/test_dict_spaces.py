"""Dict and Tuple observations from Gymnasium's spaces to arrays a key, and what is refused."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from actors.environments.checks import first_observations
from actors.environments.make import make_environment
from actors.environments.spaces.dict_spaces import convert_space
from actors.environments.spaces.raw_dict import RawDict
from actors.environments.spaces.text import PLACES, counts_of
from actors.settings import FactoryEnv
from oatmill.errors import UserError
from protocol.data.spaces import ObservationSpace
from tests.actors.environments.test_boundary import started

MODULE = "tests.actors.environments.masked_environments"
NESTED = spaces.Dict(
    camera=spaces.Box(0, 255, (5, 4, 3), np.uint8),
    pose=spaces.Dict(
        place=spaces.Box(-1, 1, (2,), np.float64),
        cell=spaces.Discrete(3, start=1),
    ),
    parts=spaces.Tuple((spaces.MultiBinary(2), spaces.Box(0, 1, (2, 2), np.float32))),
)


def one(n: int) -> dict[str, Any]:
    return {
        "camera": np.full((5, 4, 3), n, np.uint8),
        "pose": {"place": np.array([n, -n], np.float64), "cell": 1 + n},
        "parts": (np.array([n % 2, 1], np.int8), np.full((2, 2), n, np.float32)),
    }


def test_each_key_gets_the_space_of_its_kind_under_its_path() -> None:
    conversion = convert_space(NESTED, "toy")
    assert dict(conversion.space.parts) == {
        "camera": ObservationSpace("image", (3, 5, 4), "uint8"),
        "parts/0": ObservationSpace("vector", (2,), "bool"),
        "parts/1": ObservationSpace("vector", (4,), "float32"),
        "pose/cell": ObservationSpace("vector", (3,), "bool"),
        "pose/place": ObservationSpace("vector", (2,), "float32"),
    }
    assert conversion.channels == "last"


def test_observations_are_taken_apart_one_by_one_and_as_a_batch() -> None:
    conversion = convert_space(NESTED, "toy")
    rows = conversion.raw.empty(2)
    for n in (0, 1):
        conversion.raw.store(one(n), rows, n)
    conversion.raw.check_limits(rows)
    seen = conversion.convert(rows)
    assert seen["camera"].shape == (2, 3, 5, 4)
    assert seen["camera"][1].max() == 1
    assert seen["pose/cell"].tolist() == [[True, False, False], [False, True, False]]
    assert seen["pose/place"].tolist() == [[0, 0], [1, -1]]
    assert seen["parts/0"].tolist() == [[False, True], [True, True]]
    assert seen["parts/1"].tolist() == [[0] * 4, [1] * 4]
    batch = {
        "camera": np.stack([one(n)["camera"] for n in (0, 1)]),
        "pose": {"place": np.array([[0, 0], [1, -1]], np.float64), "cell": np.array([1, 2])},
        "parts": (np.array([[0, 1], [1, 1]], np.int8), np.stack([np.full((2, 2), n, np.float32) for n in (0, 1)])),
    }
    together = conversion.convert(conversion.raw.batch(batch, 2))
    assert all(np.array_equal(together[path], seen[path]) for path in seen)


def test_nested_dicts_and_tuples_take_the_quick_way_and_their_subclasses_the_other_with_the_same_result() -> None:
    raw = convert_space(NESTED, "toy").raw
    assert isinstance(raw, RawDict)
    quick, other = raw.empty(1), raw.empty(1)
    assert raw._store_quickly(one(1), quick, 0)
    values = OrderedDict(one(1))
    assert not raw._store_quickly(values, other, 0)
    raw.store(values, other, 0)
    assert all(np.array_equal(quick[path], other[path]) and quick[path].any() for path in quick)


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in one(0).items() if name != key}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (without("pose"), "an observation with the keys camera, parts, pose, as observation_space says, got camera, parts"),
        (one(0) | {"extra": 1}, "got camera, extra, parts, pose"),
        (one(0) | {"pose": {"place": np.zeros(2)}}, "with the keys cell, place, as observation_space says, got place"),
        (one(0) | {"parts": (np.zeros(2, np.int8),)}, "expected an observation with 2 entries"),
        (np.zeros(3), "with the keys camera, parts, pose, as observation_space says, got array"),
        (one(0) | {"pose": {"place": np.zeros(3), "cell": 1}}, "an observation of pose/place of shape (2,), got (3,)"),
        (one(3), "observations of pose/cell of whole numbers from 1 to 3, as Discrete(3, start=1) says, got 4 in row 0"),
    ],
)
def test_keys_and_values_that_are_not_the_spaces_are_errors_of_one_line(values: Any, says: str) -> None:
    raw = convert_space(NESTED, "toy").raw
    rows = raw.empty(1)
    with pytest.raises(ValueError, match="expected") as caught:  # noqa: PT012 -- limits are checked for all rows at once
        raw.store(values, rows, 0)
        raw.check_limits(rows)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("space", "says"),
    [
        (
            spaces.Dict({"a": spaces.Graph(spaces.Discrete(2), None)}),
            "key a: expected a Box, Discrete, MultiDiscrete",
        ),
        (spaces.Dict({"a": spaces.Box(0, 1, (10, 10, 6))}), "key a: expected an image whose first or last axis"),
        (spaces.Dict({"action_mask": spaces.MultiBinary(2)}), "expected another key besides action_mask"),
        (spaces.Dict(), "expected at least one key in the observation, got Dict() (Dict)"),
        (spaces.Tuple([]), "expected at least one key in the observation, got Tuple() (Tuple)"),
        (spaces.Dict({"a": spaces.Sequence(spaces.Discrete(2))}), "pad it to a Box of a fixed length"),
        (spaces.Sequence(spaces.Discrete(2)), "pad it to a Box of a fixed length, in a gymnasium.ObservationWrapper"),
        (spaces.Graph(spaces.Discrete(2), None), "pad nodes and edges to Boxes of a fixed size in a Dict"),
        (spaces.Text(5), "put it into a Dict of one key, in a gymnasium.ObservationWrapper, in the function of env.factory"),
        (None, "got None (NoneType); set observation_space to an object of gymnasium.spaces"),
        (spaces.Box(0, 1, (0,)), "expected a Box of at least one number, got shape (0,); correct observation_space"),
        (
            spaces.Dict({"a/b": spaces.Discrete(2), "a": spaces.Dict({"b": spaces.Discrete(2)})}),
            "observation has two keys a/b; rename one",
        ),
        (spaces.Dict({"a": spaces.Discrete(5000)}), "key a: expected at most 4096 different values"),
    ],
)
def test_spaces_that_cannot_be_read_are_refused_in_one_line(space: Any, says: str) -> None:
    with pytest.raises(UserError) as caught:
        convert_space(space, "env.id=Toy-v0")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_images_of_different_layouts_are_named_by_key() -> None:
    both = spaces.Dict(a=spaces.Box(0, 255, (3, 5, 5), np.uint8), b=spaces.Box(0, 255, (5, 5, 3), np.uint8))
    assert convert_space(both, "toy").channels == "a: first, b: last"


def test_a_text_counts_words_and_pairs_in_a_fixed_number_of_places() -> None:
    counts = counts_of("go to the red door")
    assert counts.shape == (PLACES,)
    assert counts.sum() == 5 + 4  # words, and pairs of neighbours
    assert (counts_of("Go to  the red door!") == counts).all()
    assert (counts_of("go to the blue door") != counts).any()
    assert (counts_of("the door red to go") != counts).any()  # the order counts
    assert counts_of("").sum() == 0
    assert counts_of("go " * 1000).max() == 255


def test_a_vector_env_gives_what_its_copies_give_one_by_one() -> None:
    together = started(FactoryEnv(factory=f"{MODULE}:make_vector_of_dicts"), copies=2)
    apart = started(FactoryEnv(factory=f"{MODULE}:Nested"), copies=2)
    assert together.spaces == apart.spaces
    for n in range(5):  # an episode has three steps
        actions = np.array([n % 2, 1])
        one, other = together.step(actions), apart.step(actions)
        for path in dict(apart.spaces.observation.parts):
            assert np.array_equal(one.observations[path], other.observations[path]), (n, path)
            assert np.array_equal(one.final_observations[path], other.final_observations[path]), (n, path)
        assert one.final_rows.tolist() == other.final_rows.tolist() == ([0, 1] if n == 2 else [])


def test_a_key_that_vanishes_during_the_run_is_one_line() -> None:
    settings = FactoryEnv(factory=f"{MODULE}:Nested", kwargs={"forgets_at": 2})
    environment = make_environment(settings, copies=1, seed=0)
    first_observations(environment)
    environment.step(np.zeros(1, np.int64))
    with pytest.raises(ValueError, match=r"expected an observation with the keys camera, pose, .* got pose"):
        environment.step(np.zeros(1, np.int64))
