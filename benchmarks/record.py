"""The JSON that a run of the benchmarks writes: the numbers of every round, the figures, and the machine and date."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from benchmarks.harness import Effort, Figure, Rounds

FORMAT = 1
PACKAGES = ("oatmill", "torch", "numpy", "pyzmq", "gymnasium", "mettagrid")


def result_of(rounds: Rounds, figures: Mapping[str, Figure]) -> dict[str, Any]:
    """One benchmark's numbers, as JSON values."""
    return {
        "figures": {name: asdict(figure) | {"met": figure.met} for name, figure in figures.items()},
        "rounds": {arm: {name: list(values) for name, values in numbers.items()} for arm, numbers in rounds.values.items()},
    }


def written(found: Mapping[str, Any], effort: Effort) -> dict[str, Any]:
    """All benchmarks' numbers, with the machine and the versions they were measured with."""
    return {"format": FORMAT, "machine": machine(), "effort": asdict(effort), "benchmarks": dict(found)}


def machine() -> dict[str, Any]:
    """The machine and the time. The load shows how much other work the machine had."""
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": len(os.sched_getaffinity(0)),
        "load": [round(load, 2) for load in os.getloadavg()],
        "processor": processor(),
        "python": platform.python_version(),
        "versions": {name: version_of(name) for name in PACKAGES},
    }


def processor() -> str:
    """The processor's name, from Linux."""
    try:
        with open("/proc/cpuinfo") as lines:  # noqa: PTH123  (a pseudo-file)
            return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
    except OSError:
        return "unknown"


def version_of(package: str) -> str | None:
    """An installed package's version."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
