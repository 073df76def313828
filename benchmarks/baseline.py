"""Compares measurements with an earlier baseline."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.record import FORMAT


@dataclass(frozen=True)
class Change:
    """One figure in the baseline and now.

    Attributes:
        name: the names of the benchmark and the figure.
        before: the value in the baseline.
        now: the new value.
        unit: the unit of both values.
        better: the factor by which it has improved; below 1 it is worse. NaN if either is 0.
    """

    name: str
    before: float
    now: float
    unit: str
    better: float


def read_baseline(path: Path) -> dict[str, Any]:
    """Read the numbers of an earlier run.

    Raises:
        ValueError: if the file is not a baseline; the message says why.
    """
    try:
        found = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"--baseline {path} cannot be read: {error}") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f"--baseline {path} was not written by `python -m benchmarks --json` of this format ({FORMAT})")
    return found


def compared(baseline: Mapping[str, Any], found: Mapping[str, Any]) -> list[Change]:
    """The changes of all figures that are in both."""
    changes = []
    for benchmark, result in found.items():
        before = baseline["benchmarks"].get(benchmark, {"figures": {}})["figures"]
        for name, figure in result["figures"].items():
            if name in before:
                old, new = before[name]["value"], figure["value"]
                ratio = new / old if old and new else float("nan")
                better = ratio if figure["better"] == "higher" else 1 / ratio
                changes.append(Change(f"{benchmark}: {name}", old, new, figure["unit"], better))
    return changes
