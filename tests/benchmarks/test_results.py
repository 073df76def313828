"""The page of results: goals, columns and dates from the JSON."""

from __future__ import annotations

from benchmarks.results import goal, measured, shown, table

ENTRY = {
    "what": "Speed",
    "unit": "x",
    "command": "run",
    "machine": "two cores",
    "goal": {"at_least": 2},
    "measured": [{"value": 2.5, "date": "2026-11-26", "detail": "fast"}, {"value": 1.5, "date": "2026-11-25"}],
}


def test_a_goal_is_judged_by_the_newest_measurement() -> None:
    assert goal(ENTRY) == "≥ 2 reached"
    assert goal(ENTRY | {"goal": {"at_most": 2}}) == "≤ 2 missed"


def test_a_value_has_its_unit_and_its_detail() -> None:
    assert shown({"value": 40700, "detail": "one actor"}, "steps/s") == "**40,700 steps/s**<br>one actor"


def test_a_table_has_the_newest_value_first_and_no_empty_column() -> None:
    assert table([ENTRY])[2] == "| Speed | **2.5x**<br>fast | ≥ 2 reached | **1.5x** |"
    plain = {name: value for name, value in ENTRY.items() if name != "goal"} | {"measured": ENTRY["measured"][:1]}  # type: ignore[index]
    assert table([plain]) == ["| What | Result |", "|---|---|", "| Speed | **2.5x**<br>fast |"]


def test_every_date_of_an_entry_is_named_once() -> None:
    assert measured(ENTRY) == "2026-11-26 and 2026-11-25, two cores"
