from __future__ import annotations

import pytest
import yaml

from oatmill.settings.yaml_format import load


@pytest.mark.parametrize("text", ["trainer: {gamma: 0.9}\ntrainer: {epochs: 2}", "trainer: {gamma: 0.9, gamma: 0.8}"])
def test_a_key_that_stands_twice_is_an_error_with_its_place(text: str) -> None:
    with pytest.raises(ValueError, match=r"the key '(trainer|gamma)' stands twice.* line \d"):
        load(text)


def test_the_same_key_in_two_mappings_and_merged_mappings_are_read() -> None:
    assert load("a: {x: 1}\nb: {x: 2}") == {"a": {"x": 1}, "b": {"x": 2}}
    assert load("a: &base {x: 1}\nb: {<<: *base, y: 2}") == {"a": {"x": 1}, "b": {"x": 1, "y": 2}}


def test_a_merged_key_may_be_replaced_in_a_mapping_that_is_merged_again() -> None:
    text = "a: &a {x: 1}\np: {q: &b {<<: *a, x: 2}}\nc: {<<: *b}"
    assert load(text) == yaml.safe_load(text)
    assert load(text)["p"] == {"q": {"x": 2}}


@pytest.mark.parametrize("text", ["{size:3}", "{name: maze, size:3}", "[{size:3}]", "{size:3, name: maze}"])
def test_a_colon_without_a_space_is_an_error(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"^expected a space after the colon, as in \{size: 3\}, got \{size:3\} in .*column \d"
    ):
        load(text)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("{a, b: 1}", {"a": None, "b": 1}),
        ("{'maze:size': }", {"maze:size": None}),
        ("{maze:size: 3}", {"maze:size": 3}),
        ("{url: tcp://host:1}", {"url": "tcp://host:1"}),
        ("maze:size:", {"maze:size": None}),
        ("[my_module:make]", ["my_module:make"]),
    ],
)
def test_other_colons_and_empty_values_are_read(text: str, read: object) -> None:
    assert load(text) == read
