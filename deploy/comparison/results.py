"""The results of a comparison's finished runs: scores, curves, and the size of each loss, by arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deploy.comparison.runs import Cell, Comparison
from deploy.comparison.statistics import (
    Array,
    Estimate,
    exact_p,
    improvement_with_interval,
    iqm,
    iqm_with_interval,
    least_p,
)
from deploy.curves import column, read_descriptors
from learner.loss_descriptor import LossDescriptor, describe
from oatmill.files.run_files import SUMMARY_FILE
from runner.folder import read_json
from runner.metrics_table import Lines, read_lines

GRID = 80
"""The number of points of a learning curve."""
LOSS_NUMBERS = ("coef", "raw", "weighted", "share", "gradient_norm", "gradient_share")


@dataclass(frozen=True)
class Curve:
    """One arm's return over env steps, in the range where all its runs have a return.

    Attributes:
        env_steps: `[N]`.
        seconds: `[S, N]`, each run's seconds of training at these env steps.
        runs: `[S, N]`, each run's mean over its last 100 episodes.
        middle: `[N]`, the interquartile mean.
        low: `[N]`, the lower end of its 95 % interval.
        high: `[N]`, the upper end.
    """

    env_steps: Array
    seconds: Array
    runs: Array
    middle: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class ArmResult:
    """The results of one arm's finished runs.

    Attributes:
        name: the arm's name.
        seeds: the seeds of its finished runs.
        final: `[S]`, each run's return over its last 100 episodes.
        average: `[S]`, each run's return averaged over its env steps: the area under its curve.
        final_iqm: interquartile mean of `final`.
        average_iqm: interquartile mean of `average`.
        curve: the learning curve.
        losses: by name, the means of `LOSS_NUMBERS` over all reports and runs; signed numbers count
            by their magnitude.
        descriptors: what is known about each of these losses, by name.
        flags: by red flag, the number of runs that raised it and one line that says why.
        env_steps_per_second: mean over the runs.
        entropy: mean final entropy, as a fraction of a uniform policy's.
        explained_variance: mean final explained variance.
    """

    name: str
    seeds: Sequence[int]
    final: Array
    average: Array
    final_iqm: Estimate
    average_iqm: Estimate
    curve: Curve
    losses: Mapping[str, Mapping[str, float]]
    descriptors: Mapping[str, LossDescriptor]
    flags: Mapping[str, tuple[int, str]]
    env_steps_per_second: float
    entropy: float
    explained_variance: float


@dataclass(frozen=True)
class Against:
    """One arm against the reference.

    Attributes:
        arm: the arm's name.
        final: the probability that a run of it has a higher final return.
        final_p: the exact two-sided p of `final`.
        average: the probability that a run of it has a higher average return.
        average_p: the exact two-sided p of `average`.
        least_p: the smallest p that is possible with this many runs.
        steps_ratio: env steps until its curve (the interquartile mean) reaches the reference's
            final return, divided by the reference's env steps; NaN if it never does.
        cost: the reference's env steps per second divided by this arm's: how many times longer a
            step takes.
    """

    arm: str
    final: Estimate
    final_p: float
    average: Estimate
    average_p: float
    least_p: float
    steps_ratio: float
    cost: float


@dataclass(frozen=True)
class Results:
    """A whole comparison.

    Attributes:
        comparison: the arms and their runs.
        arms: the arms that have a finished run with a finished episode.
        against: the arms other than the reference.
        missing: one line for each run that is missing or has no numbers.
    """

    comparison: Comparison
    arms: Mapping[str, ArmResult]
    against: Mapping[str, Against]
    missing: Sequence[str]


def collect(comparison: Comparison) -> Results:
    """Read all finished runs."""
    arms: dict[str, ArmResult] = {}
    missing = []
    for name in comparison.arms:
        cells = []
        for cell in comparison.of_arm(name):
            problem = problem_of(cell)
            if problem:
                missing.append(f"{cell.arm} seed {cell.seed} {problem}")
            else:
                cells.append(cell)
        if cells:
            arms[name] = arm_result(name, cells)
    reference = arms.get(comparison.reference)
    others = [arm for arm in arms.values() if arm is not reference]
    return Results(comparison, arms, {arm.name: against(arm, reference) for arm in others} if reference else {}, missing)


def problem_of(cell: Cell) -> str:
    """Why a run's numbers cannot be used; empty if they can."""
    summary = read_json(cell.folder / SUMMARY_FILE)
    if summary.get("outcome") != "done":
        return f"has not finished{': ' + str(summary['error']) if summary.get('error') else ''}"
    if not (summary.get("episode_return") or {}).get("n"):
        return "has no finished episode; its budget is too small"
    return ""


def arm_result(name: str, cells: Sequence[Cell]) -> ArmResult:
    """One arm's numbers."""
    summaries = [read_json(cell.folder / SUMMARY_FILE) for cell in cells]
    lines = [read_lines(cell.folder) for cell in cells]
    final = np.array([summary["episode_return"]["mean"] for summary in summaries], float)
    average = np.array([average_return(run) for run in lines])
    losses = loss_means(lines)
    return ArmResult(
        name=name,
        seeds=[cell.seed for cell in cells],
        final=final,
        average=average,
        final_iqm=iqm(final),
        average_iqm=iqm(average),
        curve=learning_curve(lines),
        losses=losses,
        descriptors=describe(losses, read_descriptors(cells[0].folder)),
        flags=flags_of(summaries),
        env_steps_per_second=mean_of(summary.get("env_steps_per_second") for summary in summaries),
        entropy=mean_of(summary["entropy"].get("fraction") for summary in summaries),
        explained_variance=mean_of(summary.get("explained_variance") for summary in summaries),
    )


def returns_of(lines: Lines) -> tuple[Array, Array, Array]:
    """Env steps, mean returns and seconds of the reports that have a return."""
    columns = np.array([column(lines, *path) for path in (("env_steps",), ("episode_return", "mean"), ("seconds",))])
    steps, means, seconds = columns[:, np.isfinite(columns[1])]
    return steps, means, seconds


def average_return(lines: Lines) -> float:
    """The area under a run's curve divided by its width."""
    steps, means, _ = returns_of(lines)
    if len(steps) < 2:  # noqa: PLR2004
        return float(means.mean()) if len(means) else float("nan")
    return float(np.trapezoid(means, steps) / (steps[-1] - steps[0]))


def learning_curve(lines: Sequence[Lines]) -> Curve:
    """All runs, interpolated at the same env steps."""
    parts = [returns_of(run) for run in lines]
    parts = [part for part in parts if len(part[0])]
    grid = np.linspace(max(steps[0] for steps, *_ in parts), min(steps[-1] for steps, *_ in parts), GRID)
    runs, seconds = (np.stack([np.interp(grid, part[0], part[kind]) for part in parts]) for kind in (1, 2))
    return Curve(grid, seconds, runs, *iqm_with_interval(runs))


def loss_means(lines: Sequence[Lines]) -> dict[str, dict[str, float]]:
    """Each loss's values and gradient norms, averaged over all reports and runs."""
    names = dict.fromkeys(name for run in lines for line in run for name in line["losses"])
    return {
        name: {number: mean_of(abs(v) for run in lines for v in column(run, "losses", name, number)) for number in LOSS_NUMBERS}
        for name in names
    }


def flags_of(summaries: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, str]]:
    """Each red flag that any run raised."""
    found: dict[str, list[str]] = {}
    for summary in summaries:
        for flag in summary.get("red_flags") or []:
            found.setdefault(flag["flag"], []).append(flag["why"])
    return {flag: (len(whys), whys[0]) for flag, whys in found.items()}


def against(arm: ArmResult, reference: ArmResult) -> Against:
    """One arm against the reference."""
    goal = float(reference.curve.middle[-1])
    return Against(
        arm=arm.name,
        final=improvement_with_interval(arm.final, reference.final),
        final_p=exact_p(arm.final, reference.final),
        average=improvement_with_interval(arm.average, reference.average),
        average_p=exact_p(arm.average, reference.average),
        least_p=least_p(len(arm.final), len(reference.final)),
        steps_ratio=steps_to(goal, arm.curve) / steps_to(goal, reference.curve),
        cost=reference.env_steps_per_second / arm.env_steps_per_second,
    )


def steps_to(goal: float, curve: Curve) -> float:
    """The env steps at which an arm's curve first reaches a return; NaN if it never does."""
    there = curve.middle >= goal
    return float(curve.env_steps[there.argmax()]) if there.any() else float("nan")


def mean_of(values: Any) -> float:
    """The mean of the finite values."""
    kept = [value for value in values if value is not None and np.isfinite(value)]
    return float(np.mean(kept)) if kept else float("nan")
