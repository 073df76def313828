"""Dict observations as arrays a key: in memory, in a block's bytes, and in what peers may say of them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from oatmill.errors import WireError
from protocol.data.observations import ObservationDict, are_equal, by_field, concatenated, zeros
from protocol.data.run_schema import MAX_PARTS, RunSchema
from protocol.data.spaces import ActionSpace, DictSpace, ObservationSpace, Spaces
from protocol.data.trajectory import BlockSize, Schema
from tests.replay.blocks import block

CAMERA = ObservationSpace("image", (1, 2, 2), "uint8")
PLACE = ObservationSpace("vector", (2,), "float32")
MASK = ObservationSpace("mask", (3,), "bool")
SPACES = Spaces(DictSpace.of({"robot/place": PLACE, "camera": CAMERA, "action_mask": MASK}), ActionSpace((3,)))


def test_an_index_goes_to_every_key_and_a_string_to_one() -> None:
    observations = ObservationDict({"a": np.arange(6).reshape(2, 3), "b": np.arange(4).reshape(2, 2)})
    assert observations["a"].shape == (2, 3)
    assert {path: values.tolist() for path, values in observations[1].items()} == {"a": [3, 4, 5], "b": [2, 3]}
    observations[0] = {"a": np.array([7, 8, 9]), "b": np.array([5, 6])}
    assert observations["a"].tolist() == [[7, 8, 9], [3, 4, 5]]
    copied = observations.copy()
    copied[:] = zeros_like(observations)
    assert observations["b"].tolist() == [[5, 6], [2, 3]]
    assert not are_equal(copied, observations)


def zeros_like(observations: ObservationDict[Any]) -> ObservationDict[Any]:
    return ObservationDict({path: np.zeros_like(values) for path, values in observations.items()})


def test_observations_are_joined_key_by_key() -> None:
    one, two = zeros(SPACES.observation, 1), zeros(SPACES.observation, 2)
    two["camera"][:] = 9
    joined = concatenated([one, two])
    assert joined["camera"].shape == (3, 1, 2, 2)
    assert joined["camera"][:, 0, 0, 0].tolist() == [0, 9, 9]
    assert concatenated([np.zeros((1, 2)), np.ones((1, 2))]).tolist() == [[0, 0], [1, 1]]


def test_each_key_is_a_field_of_its_own_dtype_and_lies_where_it_is_worked_out() -> None:
    schema = Schema.of(SPACES, core_state_size=0)
    fields = {entry.name: (entry.dtype, entry.shape) for entry in schema.fields if "/" in entry.name}
    assert fields == {
        "observations/action_mask": ("bool", (3,)),
        "observations/camera": ("uint8", (1, 2, 2)),
        "observations/robot/place": ("float32", (2,)),
        "final_observations/action_mask": ("bool", (3,)),
        "final_observations/camera": ("uint8", (1, 2, 2)),
        "final_observations/robot/place": ("float32", (2,)),
    }
    # By hand, one trajectory of T = 2 without ends, each field rounded up to 8 bytes: mask 3*3=9->16, camera 3*4=12->16,
    # place 3*8=24, actions 8, rewards 8, three flags 8 each = 24, logits 2*3*4=24, value 8. The sum is 128.
    assert schema.nbytes(BlockSize(1, 2, 0, 0)) == 128


def test_a_block_of_a_dict_is_packed_and_read_back() -> None:
    schema = Schema.of(SPACES, core_state_size=0)
    plain = block(2)
    steps = plain.rewards.shape[1]
    observations = zeros(SPACES.observation, 2, steps + 1)
    observations["camera"][1, 0] = 200
    observations["robot/place"][0, steps] = (0.5, -1)
    observations["action_mask"][:, :, 1] = True
    content = {**vars(plain), "observations": observations, "final_observations": zeros(SPACES.observation, 0)}
    sent = type(plain)(**content)
    read = by_field(schema.views(schema.pack(sent), sent.size))
    assert are_equal(read["observations"], observations)
    assert read["observations"]["camera"].dtype == np.uint8
    assert read["final_observations"]["camera"].shape == (0, 1, 2, 2)


def test_the_spaces_of_a_dict_survive_json() -> None:
    schema = RunSchema(SPACES, 0, ())
    assert RunSchema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema
    assert SPACES.masked


def test_a_plain_observation_is_described_as_it_was_before_there_were_dicts() -> None:
    plain = Spaces(PLACE, ActionSpace((3,))).to_dict()
    assert plain["observation"] == {
        "kind": "vector",
        "shape": (2,),
        "dtype": "float32",
        "feature_scales": (),
        "categorical_features": (),
        "num_categories": 0,
        "window": (16, 16),
    }
    assert Schema.of(Spaces(PLACE, ActionSpace((3,))), core_state_size=0).fields[0].name == "observations"


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({}, "at least one key"),
        ({"action_mask": {"kind": "mask", "shape": [3], "dtype": "bool"}}, "at least one key beside its mask"),
        ({"mask": {"kind": "mask", "shape": [3], "dtype": "bool"}}, "has its mask, and nothing else, as action_mask"),
        ({"action_mask": {"kind": "vector", "shape": [3], "dtype": "bool"}}, "has its mask, and nothing else"),
        ({"x": {}, "action_mask": {"kind": "mask", "shape": [2], "dtype": "bool"}}, "an action mask of 3 bools"),
        ({"x": {}, "action_mask": {"kind": "mask", "shape": [3], "dtype": "int8"}}, "an action mask of 3 bools"),
        ({"x": {"dtype": "object"}}, "expected a dtype of"),
        ({"x": {"kind": "dict"}}, "KeyError"),
        ({"x" * 201: {}}, "at most 200 printable characters"),
        ({"x\n": {}}, "at most 200 printable characters"),
        ({"": {}}, "different, sorted keys"),
        ({f"x{n}": {} for n in range(MAX_PARTS + 1)}, "at most 256 keys"),
        ([["x", {}]], "AttributeError"),
    ],
)
def test_a_dict_that_no_peer_may_have_is_refused(keys: Any, says: str) -> None:
    whole = json.loads(json.dumps(RunSchema(Spaces(PLACE, ActionSpace((3,))), 0, ()).to_dict()))
    plain = whole["spaces"]["observation"]
    given = {path: plain | changes for path, changes in keys.items()} if isinstance(keys, dict) else keys
    whole["spaces"]["observation"] = {"keys": given}
    with pytest.raises(WireError, match=says) as caught:
        RunSchema.from_dict(whole)
    assert caught.value.reason == "schema"


def test_a_plain_observation_is_no_mask() -> None:
    whole = json.loads(json.dumps(RunSchema(Spaces(PLACE, ActionSpace((2,))), 0, ()).to_dict()))
    whole["spaces"]["observation"] |= {"kind": "mask", "dtype": "bool"}
    with pytest.raises(WireError, match="an action mask of 2 bools in a Dict observation"):
        RunSchema.from_dict(whole)
