"""Moves the coefficients of the auxiliary losses while a run goes on, where its settings ask for that.

Only auxiliary losses are moved, your own among them: the critic and the policy gradient are what they assist. The settings keep
the coefficient that was set. The factor that it has been multiplied by since is part of the run's state and of its checkpoints.
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
"""A loss that is still blamed after this many is left as it is: 1/1024 of a coefficient is off."""
DAMPING = 0.5
"""The part of the way, in logarithms, that one measurement moves a coefficient: a norm of one minibatch is noisy."""
STEP_LIMIT = 2.0
"""One measurement moves a coefficient by no more than this factor."""
WORTH_SAYING = 1.25
"""A move is written down once a coefficient differs by this factor from what was last written."""


class Move(NamedTuple):
    """A coefficient that was moved.

    Attributes:
        loss: whose.
        scale: what its coefficients are multiplied by from now on.
        why: one line.
    """

    loss: str
    scale: float
    why: str


class Steering:
    """Decides on moves after a report; one rank decides for all.

    Args:
        trainer: what may be moved, and how far.
        losses: the plan's descriptors, by name.
        scales: what each loss's coefficients are multiplied by; changed in place by `take`.
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
        """Whether anything may ever be moved."""
        return bool(self.losses) and (self.trainer.on_red_flag == "reduce" or self.trainer.balance == "gradient_share")

    def state(self) -> dict[str, Any]:
        """For the checkpoint; the scales themselves are saved beside it."""
        return {"reports": self.reports, "halved_at": self.halved_at, "said": self.said}

    def load(self, state: Mapping[str, Any]) -> None:
        """What `state` gave."""
        self.reports = state["reports"]
        self.halved_at, self.said = dict(state["halved_at"]), self.said | state["said"]

    def wanted(self, blamed: Mapping[str, str], shares: Mapping[str, float] | None) -> list[float]:
        """The scale of each of `losses` after a report.

        Args:
            blamed: the losses that the raised red flags blame, and why.
            shares: each loss's part of the gradient, or None if it was not measured since the last report.
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
        """Whether a whole window of reports has seen what the last halving did, and there is something left to halve."""
        waited = self.reports - self.halved_at.get(loss, -WINDOW) >= WINDOW
        return waited and scale > 2.0**-HALVINGS

    def balanced(self, loss: str, scale: float, share: float) -> float:
        """A scale moved towards the asked share of the gradient, within the limits."""
        if not (math.isfinite(share) and share > 0):
            return scale
        factor = math.exp(DAMPING * math.log(self.trainer.balance_share / share))
        limit = self.trainer.balance_limit
        moved = scale * min(max(factor, 1 / STEP_LIMIT), STEP_LIMIT)
        return min(max(moved, 1 / limit), self.highest(loss))

    def highest(self, loss: str) -> float:
        """The scale at which the limit, or a coefficient's own upper bound, is reached."""
        descriptor, limit = self.descriptors[loss], self.trainer.balance_limit
        if descriptor.largest_coefficient is None:
            return limit
        return min(limit, descriptor.largest_coefficient / max(map(self.coefficient, descriptor.coefficients.values())))

    def coefficient(self, path: str) -> float:
        """A coefficient's setting, such as `trainer.losses.dynamics.reward_pred_coef`."""
        found: Any = self.trainer
        return float(reduce(getattr, path.split(".")[1:], found))

    def take(self, scales: list[float], blamed: Mapping[str, str]) -> list[Move]:
        """Apply what was agreed on, and return the moves that are worth a line."""
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
