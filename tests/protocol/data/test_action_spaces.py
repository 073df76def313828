"""Action spaces through JSON, from peers that are not trusted, and as older versions wrote them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from oatmill.errors import WireError
from protocol.data.run_schema import RunSchema
from protocol.data.spaces import ActionPart, ActionSpace, ObservationSpace, Spaces

MIXED = ActionSpace(
    (3,),
    factored=True,
    low=(-2.0, 0.0),
    high=(2.0, 0.5),
    parts=(
        ActionPart(("gear",), (), "int64", (0, 1), (1,)),
        ActionPart(("arm", 1), (2, 1), "float64", (1, 3)),
    ),
)
SCHEMA = RunSchema(Spaces(ObservationSpace("vector", (3,), "float32"), MIXED), 0, ())


def test_numbers_and_structures_survive_json() -> None:
    again = RunSchema.from_dict(json.loads(json.dumps(SCHEMA.to_dict())))
    assert again == SCHEMA
    assert again.identity == SCHEMA.identity


def test_a_row_holds_choices_and_numbers_and_a_policy_their_parameters() -> None:
    assert (MIXED.width, MIXED.shape, MIXED.dtype) == (3, (3,), "float32")
    assert (MIXED.num_logits, MIXED.num_parameters) == (3, 3 + 2 * 2)
    fields = {entry.name: entry for entry in SCHEMA.trajectory.fields}
    assert (fields["actions"].dtype, fields["actions"].shape) == ("float32", (3,))
    assert fields["behaviour_logits"].shape == (7,)


@pytest.mark.parametrize(("sizes", "factored"), [((3,), False), ((3, 2), True)])
def test_choices_alone_are_written_and_read_as_before_there_were_numbers(sizes: tuple[int, ...], factored: bool) -> None:
    written = {"sizes": sizes, "factored": factored}
    assert ActionSpace(sizes, factored).to_dict() == written
    assert ActionSpace.from_dict(written) == ActionSpace(sizes, factored)
    assert ActionSpace(sizes, factored).dtype == "int32"


def broken(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(json.dumps(SCHEMA.to_dict()))
    for name, value in changes.items():
        place = values["spaces"]["action"]
        *folders, last = name.split("__")
        for folder in folders:
            place = place[int(folder) if folder.isdigit() else folder]
        place[last] = value
    return values


@pytest.mark.parametrize(
    "changes",
    [
        {"low": [-2.0]},
        {"low": [float("-inf"), 0.0]},
        {"low": [3.0, 0.0]},
        {"low": ["-2", 0.0]},
        {"low": [True, 0.0]},
        {"high": [10**400, 0.5]},
        {"high": [2.0, None]},
        {"sizes": [2**24 + 1]},
        {"factored": False},
        {"factored": 1},
        {"parts": []},
        {"parts": [{"path": []}]},
        {"parts__0__columns": [0, 2]},
        {"parts__0__columns": [1, 1]},
        {"parts__1__columns": [1, 2**60]},
        {"parts__1__columns": [1]},
        {"parts__1__dtype": "object"},
        {"parts__1__shape": [3, 1]},
        {"parts__1__shape": [-2, -1]},
        {"parts__1__path": [[1]]},
        {"parts__1__path": [-1]},
        {"parts__0__start": [0.5]},
        {"parts__0__start": [0, 0]},
    ],
)
def test_an_invalid_action_space_is_rejected(changes: dict[str, Any]) -> None:
    with pytest.raises(WireError) as caught:
        RunSchema.from_dict(broken(**changes))
    assert caught.value.reason == "schema"


def test_what_the_cases_break_is_valid_as_it_is() -> None:
    assert RunSchema.from_dict(broken()) == SCHEMA
