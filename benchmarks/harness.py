"""Measures the benchmarks of `python -m benchmarks`: interleaved rounds, medians, CPU and wall time.

A benchmark has arms, which are the actions to compare. Each round runs every arm once and starts with
another arm, so that other work on the machine slows all arms equally. Arms are compared within a round,
and the median over the rounds is reported.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Literal, Protocol

Arm = Callable[[], Mapping[str, float]]
"""Runs the arm once, and returns its results as numbers by name."""


@dataclass(frozen=True)
class Effort:
    """How much a benchmark measures.

    Attributes:
        rounds: the number of runs of each arm.
        seconds: the duration of one run of an arm, if it can be chosen.
        quick: only check that everything runs.
    """

    rounds: int
    seconds: float
    quick: bool = False


@dataclass(frozen=True)
class Figure:
    """One result of a benchmark.

    Attributes:
        value: the value.
        unit: the unit.
        better: whether a higher or a lower value is better.
        goal: the goal; None if there is none.
    """

    value: float
    unit: str
    better: Literal["higher", "lower"] = "higher"
    goal: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without a goal."""
        if self.goal is None:
            return None
        return self.value >= self.goal if self.better == "higher" else self.value <= self.goal


@dataclass(frozen=True)
class Rounds:
    """The measurements: by arm and name, one value per round.

    Every arm has `wall_s` and `cpu_s`. `cpu_s` is the time of this process and of the child processes
    that ended during the run.
    """

    values: Mapping[str, Mapping[str, Sequence[float]]]

    def median(self, arm: str, name: str) -> float:
        """The median over the rounds."""
        return median(self.values[arm][name])

    def ratio(self, arm: str, other: str, name: str) -> float:
        """The median over the rounds of the ratio within each round, so that slow rounds cancel out."""
        pairs = zip(self.values[arm][name], self.values[other][name], strict=True)
        return median(own / others for own, others in pairs)


class Benchmark(Protocol):
    """A module of `benchmarks.suite`; its docstring's first line says what it measures."""

    WARM_UP: bool
    """Whether the first run of each arm is discarded."""

    def arms(self, effort: Effort, stack: ExitStack) -> Mapping[str, Arm]:
        """Create the arms to compare; `stack` closes their resources."""
        ...

    def figures(self, rounds: Rounds) -> Mapping[str, Figure]:
        """Compute the figures from the rounds."""
        ...


def cpu_seconds() -> float:
    """CPU seconds of this process with all threads and of its ended children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def timed(arm: Arm) -> dict[str, float]:
    """Run an arm once and measure wall and CPU time; the arm may return its own times."""
    cpu, wall = cpu_seconds(), time.perf_counter()
    found = dict(arm())
    return {"wall_s": time.perf_counter() - wall, "cpu_s": cpu_seconds() - cpu} | found


def measure(benchmark: Benchmark, effort: Effort) -> Rounds:
    """Run all rounds of a benchmark; none if it has no arms on this machine."""
    with ExitStack() as stack:
        arms = benchmark.arms(effort, stack)
        names = list(arms)
        values: dict[str, dict[str, list[float]]] = {name: {} for name in names}
        if benchmark.WARM_UP:
            for arm in arms.values():
                arm()
        for number in range(effort.rounds if names else 0):
            start = number % len(names)
            for name in names[start:] + names[:start]:
                for key, value in timed(arms[name]).items():
                    values[name].setdefault(key, []).append(value)
    return Rounds(values)
