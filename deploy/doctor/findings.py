"""What the doctor reports: findings, and the settings that it suggests with them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from deploy.doctor.examined_run import ExaminedRun

WANTED_SHARE = 0.1
"""The share of the gradient on the trunk that an auxiliary loss should have: 5 to 20 %."""
LARGEST_JUMP = 1000.0
"""A coefficient is changed by at most this factor at once: a share near 0 or 1 is not measured well."""
DOUBTFUL = 0.05
"""Below this correlation of the model's advantages with those of the returns, the model does not
tell actions apart."""


@dataclass(frozen=True)
class Finding:
    """One thing to know about a run.

    Attributes:
        wrong: whether it needs a change; other findings are for information.
        topic: what it is about.
        text: what was found, and what it means.
        tries: settings to try next, as `key=value`.
    """

    wrong: bool
    topic: str
    text: str
    tries: tuple[str, ...] = ()


def scaled(run: ExaminedRun, name: str, factor: float) -> tuple[str, ...]:
    """A loss's coefficients times a factor, as settings to try.

    A coefficient that is 0 or at its upper bound is left out. Where a loss has no settings, as most
    losses of your own, the setting to try is the one that adjusts coefficients by itself.
    """
    descriptor = run.descriptors[name]
    if not descriptor.coefficients:
        return ("trainer.balance=gradient_share",)
    limit = math.inf if descriptor.largest_coefficient is None else descriptor.largest_coefficient
    now = {path: run.setting(path) for path in descriptor.coefficients.values()}
    wanted = {path: (was, min(limit, was * factor)) for path, was in now.items()}
    return tuple(f"{path}={to:.2g}" for path, (was, to) in wanted.items() if math.isfinite(was) and was != to)


def balanced(run: ExaminedRun, name: str) -> tuple[str, ...]:
    """A loss's coefficients for which it should have the wanted share of the gradient, worked out from the measured share.

    A loss of share `s` pushes `s / (1 - s)` times as hard as all others together; its gradient grows with its coefficient.
    """
    share = run.share(name)
    if not 0 < share < 1:
        return ("trainer.balance=gradient_share",)
    factor = WANTED_SHARE / (1 - WANTED_SHARE) * (1 - share) / share
    return scaled(run, name, min(max(factor, 1 / LARGEST_JUMP), LARGEST_JUMP))


def agreement(run: ExaminedRun, name: str) -> float:
    """The correlation of a loss's advantages with those of the returns; NaN if it reports none."""
    return run.recent("losses", name, "advantage_agreement")
