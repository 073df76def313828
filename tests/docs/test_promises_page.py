"""docs/concepts/promises.md names the tests that prove each promise: they exist, and each promise has some."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "concepts" / "promises.md"
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def functions_of(file: str) -> set[str]:
    """The names of a file's test functions."""
    return {node.name for node in ast.parse((ROOT / file).read_text()).body if isinstance(node, ast.FunctionDef)}


def test_every_test_that_the_page_names_exists() -> None:
    named = TEST.findall(PAGE.read_text())
    assert [f"{file}::{name}" for file, name in named if name not in functions_of(file)] == []


def test_every_promise_says_what_is_not_covered_and_names_a_test() -> None:
    promises = PAGE.read_text().split("\n### ")[1:]
    for promise in promises:
        assert "**Not covered**" in promise, promise
        assert TEST.search(promise), promise
    assert {f"G{number}" for number in range(1, 9)} <= {promise.split(".")[0] for promise in promises}
