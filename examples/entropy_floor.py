"""Example of your own loss: raises the policy's entropy if it is below a floor.

oatmill train cartpole trainer.extra_losses='[examples.entropy_floor:choose]'
"""

from __future__ import annotations

import math

from torch import Tensor

from agent import distribution
from learner.loss import Choice, Context, Loss, Question, Statistic, Term, Terms

COEF = 0.1
FLOOR = 0.2
"""Of the entropy of a uniform policy."""


class EntropyFloor(Loss):
    """max(0, floor - H(pi)), in nats, at every valid step."""

    name = "entropy_floor"

    def __init__(self, context: Context) -> None:
        """Work out the floor from the number of actions."""
        self.sizes = context.sizes
        self.floor = FLOOR * sum(math.log(size) for size in context.sizes)

    def compute(self, *, logits_BTA: Tensor, mask_BT: Tensor) -> Terms:
        """The names of the parameters are what the loss reads; it returns every step's value, unweighted and unreduced."""
        entropy_BT = distribution.entropy(distribution.log_softmax(logits_BTA.float(), self.sizes))
        missing_BT = (self.floor - entropy_BT).clamp(min=0)
        return {
            "missing": Term(missing_BT, mask_BT, COEF),
            "below": Statistic((missing_BT > 0).float(), mask_BT),
        }


def choose(_question: Question) -> Choice | None:
    """Always on; a loss that depends on settings or on the actions looks at the question."""
    return Choice(EntropyFloor, notes=(f"entropy_floor acts below {FLOOR:.0%} of a uniform policy's entropy",))
