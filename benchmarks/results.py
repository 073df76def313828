"""Writes docs/benchmarks/results.md from benchmarks/results.json: `python -m benchmarks.results`.

All figures of the project are in this JSON file and nowhere else. Each entry has a value, its unit, the
command that measures it, the date and the machine. Measurements are listed from the newest to the oldest.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.processes import arguments_of

SOURCE = Path(__file__).parent / "results.json"
PAGE = Path(__file__).parents[1] / "docs/benchmarks/results.md"
HEAD = """<!-- Written by `python -m benchmarks.results` from benchmarks/results.json. Do not edit. -->

# Results

Every figure has the command that measures it. Absolute numbers depend on the machine; ratios are taken between
runs that alternate on the same machine. [Method](index.md) explains how.
"""


def page(results: Mapping[str, Any]) -> str:
    """The page, as Markdown."""
    parts = [HEAD, "## Machines", ""]
    parts += [f"- **{name}**: {text}" for name, text in results["machines"].items()]
    for group in results["groups"]:
        parts += ["", f"## {group['title']}", ""]
        if "about" in group:
            parts += [group["about"], ""]
        parts += table(group["entries"])
        parts += ["", "Commands and dates:", ""]
        parts += [f"- {entry['what']}: `{entry['command']}`, {measured(entry)}" for entry in group["entries"]]
    return "\n".join(parts) + "\n"


def table(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """The lines of a table. Columns that are empty in all entries are left out."""
    rows = [("What", "Result", "Goal", "Earlier"), *(row(entry) for entry in entries)]
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    head, *lines = [f"| {' | '.join(cells)} |" for cells in zip(*columns, strict=True)]
    return [head, "|---" * len(columns) + "|", *lines]


def row(entry: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """The cells of an entry's row."""
    newest, *earlier = entry["measured"]
    before = "; ".join(shown(one, entry["unit"]) for one in earlier)
    return entry["what"], shown(newest, entry["unit"]), goal(entry), before


def shown(measurement: Mapping[str, Any], unit: str) -> str:
    """A value with its unit and detail."""
    detail = f"<br>{measurement['detail']}" if "detail" in measurement else ""
    space = "" if unit == "x" else " "
    return f"**{measurement['value']:,}{space}{unit}**{detail}"


def goal(entry: Mapping[str, Any]) -> str:
    """The goal and whether the newest measurement reaches it; empty without a goal."""
    if "goal" not in entry:
        return ""
    (kind, bound), value = next(iter(entry["goal"].items())), entry["measured"][0]["value"]
    reached = value >= bound if kind == "at_least" else value <= bound
    sign = "≥" if kind == "at_least" else "≤"
    return f"{sign} {bound:,} {'reached' if reached else 'missed'}"


def measured(entry: Mapping[str, Any]) -> str:
    """The date and the machine."""
    return f"{dates(entry['measured'])}, {entry['machine']}"


def dates(measurements: Iterable[Mapping[str, Any]]) -> str:
    """All dates, newest first."""
    return " and ".join(dict.fromkeys(one["date"] for one in measurements))


def main() -> None:
    """Write the page."""
    arguments_of(__doc__)
    PAGE.write_text(page(json.loads(SOURCE.read_text())))


if __name__ == "__main__":
    main()
