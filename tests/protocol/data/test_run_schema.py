from __future__ import annotations

import json
from typing import Any

import pytest

from oatmill.errors import WireError
from protocol.data.run_schema import RunSchema
from protocol.data.spaces import ActionSpace, ObservationSpace, Spaces
from protocol.data.trajectory import BlockSize, Schema

TOKENS = Spaces(
    ObservationSpace("tokens", (200, 3), "uint8", feature_scales=(1.0, 255.0), window=(11, 11)),
    ActionSpace((9, 4), factored=True),
)
SCHEMA = RunSchema(TOKENS, 32, ("hearts", "energy"))


def test_a_schema_survives_json() -> None:
    assert RunSchema.from_dict(json.loads(json.dumps(SCHEMA.to_dict()))) == SCHEMA


def test_each_schema_has_its_own_identity() -> None:
    others = [RunSchema(TOKENS, 31, ("hearts", "energy")), RunSchema(TOKENS, 32, ("hearts",))]
    assert len({SCHEMA.identity, *(other.identity for other in others)}) == 3
    assert RunSchema(TOKENS, 32, ("hearts", "energy")).identity == SCHEMA.identity


def test_the_discounted_return_is_a_field_where_rewards_are_normalised_and_changes_no_other_schema() -> None:
    with_returns = RunSchema(TOKENS, 32, ("hearts", "energy"), discounted_return=True)
    assert RunSchema.from_dict(json.loads(json.dumps(with_returns.to_dict()))) == with_returns
    assert RunSchema.of(TOKENS, with_returns.trajectory) == with_returns
    added = {entry.name for entry in with_returns.batch.fields} - {entry.name for entry in SCHEMA.batch.fields}
    assert added == {"discounted_return"}
    assert with_returns.identity != SCHEMA.identity
    assert "discounted_return" not in SCHEMA.to_dict()  # so that logs of older runs have the same identity
    assert SCHEMA.difference(with_returns) == "discounted_return: the run has False, this process has True"
    with pytest.raises(WireError, match="expected discounted_return, true or false, got 1"):
        RunSchema.from_dict(SCHEMA.to_dict() | {"discounted_return": 1})


def test_a_run_schema_is_built_from_a_schemas_fields() -> None:
    fields = Schema.of(TOKENS, core_state_size=32, episode_statistics=("hearts", "energy"))
    assert RunSchema.of(TOKENS, fields) == SCHEMA


def test_a_batch_has_the_fields_of_its_rows_and_no_episodes() -> None:
    names = [entry.name for entry in SCHEMA.batch.fields]
    assert names == [
        "observations",
        "actions",
        "rewards",
        "terminated",
        "truncated",
        "valid",
        "behaviour_logits",
        "behaviour_value",
        "core_state",
        "policy_version",
        "fresh",
        "importance",
        "final_observations",
        "final_trajectory",
        "final_step",
    ]


def test_the_cost_of_a_row_covers_the_largest_possible_row() -> None:
    # By hand, T = 2, a float32 observation of 1 number, 2 actions, no core, no statistics, each field rounded up to 8 bytes:
    # observations 3*4=12->16, actions 8, rewards 8, three flags of 2 -> 8 each = 24, logits 2*2*4=16, value 8, core 0;
    # finals 2*4=8, their row 8, their step 8; episodes' return 8, length 8, statistics 0. The sum is 120.
    schema = RunSchema(Spaces(ObservationSpace("vector", (1,), "float32"), ActionSpace((2,))), 0, ())
    assert schema.row_bytes(2) == 120
    # n rows together are never more than n times that: only the padding is shared.
    assert schema.trajectory.nbytes(BlockSize(5, 2, 10, 10)) <= 5 * 120


def broken(path: str, value: Any) -> dict[str, Any]:
    values: Any = json.loads(json.dumps(SCHEMA.to_dict()))
    *folders, last = path.split(".")
    place = values
    for folder in folders:
        place = place[folder]
    place[last] = value
    return dict(values)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("core_state_size", -1),
        ("core_state_size", 2**62),
        ("core_state_size", True),
        ("episode_statistics", "hearts"),
        ("episode_statistics", [1]),
        ("spaces", None),
        ("spaces", []),
        ("spaces.observation", {}),
        ("spaces.observation.dtype", "object"),
        ("spaces.observation.dtype", "O"),
        ("spaces.observation.dtype", [["x", "f4"]]),
        ("spaces.observation.shape", [200]),
        ("spaces.observation.shape", [-1, 3]),
        ("spaces.observation.shape", [2**31, 3]),
        ("spaces.observation.shape", [2**30, 3]),
        ("spaces.observation.shape", ["200", 3]),
        ("spaces.observation.kind", "sound"),
        ("spaces.action.sizes", []),
        ("spaces.action.sizes", [0]),
        ("spaces.action.sizes", [2.0]),
    ],
)
def test_an_invalid_schema_is_rejected(path: str, value: Any) -> None:
    with pytest.raises(WireError) as caught:
        RunSchema.from_dict(broken(path, value))
    assert caught.value.reason in {"schema", "payload_json"}


def test_the_first_difference_of_two_schemas_is_described() -> None:
    other = RunSchema(TOKENS, 16, ("hearts", "energy"))
    assert SCHEMA.difference(other) == "core_state_size: the run has 32, this process has 16"


@pytest.mark.parametrize(
    ("observation", "expected"),
    [
        (ObservationSpace("image", (4, 84, 84), "uint8"), True),
        (ObservationSpace("image", (10, 10, 4), "bool"), True),
        (ObservationSpace("vector", (4,), "float32"), False),
    ],
)
def test_a_schema_tells_whether_observations_are_mostly_integers(observation: ObservationSpace, expected: bool) -> None:
    assert Schema.of(Spaces(observation, ActionSpace((2,))), core_state_size=0).mostly_integers is expected
