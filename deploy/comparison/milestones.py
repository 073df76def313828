"""Env steps and seconds to returns on the way to the reference's final one: arms that end alike may learn at other speeds."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from deploy.comparison.results import ArmResult, Curve
from deploy.comparison.statistics import Array, Estimate, exact_p, ratio_of_means

PARTS = (0.25, 0.5, 0.75, 0.9)
"""Milestones, as parts of the way from the reference's first return to its final one, which half of its runs do not reach."""
Unit = Literal["env_steps", "seconds"]


class Milestone(NamedTuple):
    """How soon an arm's runs reach a return.

    Attributes:
        goal: the return.
        taken: `[S]`, each run's env steps or seconds to it; NaN if the run never reaches it.
        ratio: the mean of `taken` divided by the reference's, with its bootstrap interval; None for the reference, or if a
            run of either arm does not reach the return.
        p: the exact two-sided p that goes with `ratio`.
    """

    goal: float
    taken: Array
    ratio: Estimate | None
    p: float | None

    @property
    def reached(self) -> int:
        """How many runs reach the return."""
        return int(np.isfinite(self.taken).sum())


def milestones(arm: ArmResult, reference: ArmResult, unit: Unit) -> list[Milestone]:
    """An arm's milestones in env steps or seconds; none if the reference's return does not rise."""
    start, end = (float(reference.curve.middle[place]) for place in (0, -1))
    goals = [start + part * (end - start) for part in PARTS] if end > start else []
    return [milestone(goal, arm, reference, unit) for goal in goals]


def milestone(goal: float, arm: ArmResult, reference: ArmResult, unit: Unit) -> Milestone:
    """One milestone."""
    own, theirs = taken_to(goal, arm.curve, unit), taken_to(goal, reference.curve, unit)
    if arm is reference or not np.isfinite([*own, *theirs]).all():
        return Milestone(goal, own, None, None)
    return Milestone(goal, own, ratio_of_means(own, theirs), exact_p(own, theirs))


def taken_to(goal: float, curve: Curve, unit: Unit) -> Array:
    """The env steps or seconds at which each run's curve first reaches a return, `[S]`, interpolated; NaN if it never does."""
    found = []
    for returns, taken in zip(curve.runs, np.broadcast_to(getattr(curve, unit), curve.runs.shape), strict=True):
        there = returns >= goal
        place = int(there.argmax())
        if not there.any():
            found.append(np.nan)
        elif place == 0:
            found.append(taken[0])
        else:
            pair = slice(place - 1, place + 1)
            found.append(np.interp(goal, returns[pair], taken[pair]))
    return np.array(found, float)
