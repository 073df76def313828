"""The benchmarks' numbers as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import Any

from benchmarks.baseline import Change
from benchmarks.harness import Figure

NOTEWORTHY = 0.1
"""A figure that is better or worse by this factor is marked. On a shared machine, smaller changes are noise."""


WITH_COMMAS = 1_000


def number(value: float) -> str:
    """Format a number with three or four significant digits."""
    if abs(value) >= WITH_COMMAS:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def goal_text(figure: Figure) -> str:
    """The goal, and whether it was reached."""
    if figure.goal is None:
        return ""
    sign = ">=" if figure.better == "higher" else "<="
    return f"{sign} {number(figure.goal)}  {'reached' if figure.met else 'MISSED'}"


def figures_table(name: str, figures: Mapping[str, Figure]) -> str:
    """One benchmark's figures, one line each."""
    width = max(map(len, figures), default=0)
    lines = [
        f"  {label:<{width}}  {number(figure.value):>10} {figure.unit:<16} {goal_text(figure)}".rstrip()
        for label, figure in figures.items()
    ]
    return "\n".join([name, *lines, ""])


def heading(path: Path, machine: Mapping[str, Any]) -> str:
    """A description of the baseline, because numbers of another or a busier machine are hard to compare."""
    load = f", load {machine['load'][0]:g}" if machine.get("load") else ""
    return (
        f"since the baseline {path} of {machine['when']}: {machine['cores']} cores of {machine['processor']}{load}, "
        f"torch {machine['versions']['torch']}"
    )


def comparison_table(changes: Sequence[Change]) -> list[str]:
    """The changes since the baseline, one line each."""
    width = max((len(change.name) for change in changes), default=0)
    return [
        f"  {change.name:<{width}}  {number(change.before):>10} -> {number(change.now):>10} {change.unit:<16} {verdict(change)}"
        for change in changes
    ]


def verdict(change: Change) -> str:
    """Better, worse, or neither."""
    if isnan(change.better):
        return ""
    word = "better" if change.better > 1 + NOTEWORTHY else "WORSE" if change.better < 1 / (1 + NOTEWORTHY) else "same"
    return f"{change.better:.2f}x {word}"
