"""Changes the coefficients of auxiliary losses during a run, if the settings ask for it.

Only auxiliary losses are changed, including a user's own, not the critic or the policy-gradient
loss. The settings keep the original coefficients. The factor on them is part of the run's state and
is saved in checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import reduce
from typing import Any, NamedTuple

from learner.loss_descriptor import LossDescriptor
from learner.reporting.red_flags import WINDOW
from learner.settings import TrainerSettings

HALVINGS = 10
"""The largest number of halvings of a loss: 1/1024 of a coefficient has no effect."""
DAMPING = 0.5
"""The fraction of the difference, in logarithms, that one measurement corrects; one minibatch's
gradient norms are noisy."""
STEP_LIMIT = 2.0
"""One measurement changes a coefficient by at most this factor."""
WORTH_SAYING = 1.25
"""A change is recorded as an event if the coefficient differs from the last event by this factor."""


class Move(NamedTuple):
    """A change of a loss's coefficients.

    Attributes:
        loss: the loss's name.
        scale: the new factor on the loss's coefficients.
        why: the reason, in one line.
    """

    loss: str
    scale: float
    why: str


class Steering:
    """Decides on changes after each report; rank 0 decides for all ranks.

    Args:
        trainer: the learner's settings.
        losses: the descriptors of the plan's losses, by name.
        scales: the factor on each loss's coefficients; `take` changes it in place.
    """

    def __init__(self, trainer: TrainerSettings, losses: Mapping[str, LossDescriptor], scales: dict[str, float]) -> None:
        self.trainer = trainer
        self.scales = scales
        self.descriptors = {name: descriptor for name, descriptor in losses.items() if descriptor.auxiliary}
        self.losses = tuple(self.descriptors)
        self.reports = 0
        self.halved_at: dict[str, int] = {}
        self.said = {loss: scales.get(loss, 1.0) for loss in self.losses}

    @property
    def active(self) -> bool:
        """Whether any coefficient may change."""
        return bool(self.losses) and (self.trainer.on_red_flag == "reduce" or self.trainer.balance == "gradient_share")

    def state(self) -> dict[str, Any]:
        """The state for the checkpoint; the scales are saved separately."""
        return {"reports": self.reports, "halved_at": self.halved_at, "said": self.said}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        self.reports = state["reports"]
        self.halved_at, self.said = dict(state["halved_at"]), self.said | state["said"]

    def wanted(self, blamed: Mapping[str, str], shares: Mapping[str, float] | None) -> list[float]:
        """The new scale of each of `losses` after a report.

        Args:
            blamed: the losses that caused red flags, each with the reason.
            shares: each loss's share of the gradient; None if it was not measured since the last
                report.
        """
        self.reports += 1
        scales = {loss: self.scales.get(loss, 1.0) for loss in self.losses}
        if self.trainer.on_red_flag == "reduce":
            for loss in blamed:
                if loss in scales and self.may_halve(loss, scales[loss]):
                    scales[loss] /= 2
                    self.halved_at[loss] = self.reports
        if self.trainer.balance == "gradient_share" and shares is not None:
            scales = {loss: self.balanced(loss, scale, shares[loss]) for loss, scale in scales.items()}
        return list(scales.values())

    def may_halve(self, loss: str, scale: float) -> bool:
        """Whether a full window of reports has passed since the last halving, and the scale is not at its minimum."""
        waited = self.reports - self.halved_at.get(loss, -WINDOW) >= WINDOW
        return waited and scale > 2.0**-HALVINGS

    def balanced(self, loss: str, scale: float, share: float) -> float:
        """A scale closer to the target share of the gradient, within the limits."""
        if not (math.isfinite(share) and share > 0):
            return scale
        factor = math.exp(DAMPING * math.log(self.trainer.balance_share / share))
        limit = self.trainer.balance_limit
        moved = scale * min(max(factor, 1 / STEP_LIMIT), STEP_LIMIT)
        return min(max(moved, 1 / limit), self.highest(loss))

    def highest(self, loss: str) -> float:
        """The largest scale that the limit and the coefficients' upper bounds allow."""
        descriptor, limit = self.descriptors[loss], self.trainer.balance_limit
        if descriptor.largest_coefficient is None:
            return limit
        return min(limit, descriptor.largest_coefficient / max(map(self.coefficient, descriptor.coefficients.values())))

    def coefficient(self, path: str) -> float:
        """The value of a setting such as `trainer.losses.dynamics.reward_pred_coef`."""
        found: Any = self.trainer
        return float(reduce(getattr, path.split(".")[1:], found))

    def take(self, scales: list[float], blamed: Mapping[str, str]) -> list[Move]:
        """Apply the agreed scales, and return the changes that are large enough for an event."""
        moves = []
        for loss, scale in zip(self.losses, scales, strict=True):
            self.scales[loss] = scale
            ratio = scale / self.said[loss]
            if max(ratio, 1 / ratio) >= WORTH_SAYING:
                self.said[loss] = scale
                why = (
                    f"halved: {blamed[loss]}"
                    if loss in blamed and ratio < 1
                    else f"{self.trainer.balance_share:g} of the gradient"
                )
                moves.append(Move(loss, scale, why))
        return moves
