"""Comparing what was measured with what was written down before."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.record import FORMAT


@dataclass(frozen=True)
class Change:
    """One figure, before and now.

    Attributes:
        name: of the benchmark and the figure.
        before: its value in the baseline.
        now: its value.
        unit: of both.
        better: by what factor it is better now; below 1 it is worse. NaN if either is 0.
    """

    name: str
    before: float
    now: float
    unit: str
    better: float


def read_baseline(path: Path) -> dict[str, Any]:
    """What an earlier run has written.

    Raises:
        ValueError: if it is no such file; says what is wrong.
    """
    try:
        found = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"--baseline {path} cannot be read: {error}") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f"--baseline {path} was not written by `python -m benchmarks --json` of this format ({FORMAT})")
    return found


def compared(baseline: Mapping[str, Any], found: Mapping[str, Any]) -> list[Change]:
    """Every figure that both have."""
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
