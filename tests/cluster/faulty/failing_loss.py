"""A loss of 0 that waits while the file /tmp/hang is there, and is NaN once for each file /tmp/not-finite."""

from __future__ import annotations

import time
from pathlib import Path

from torch import Tensor

from learner.loss import Choice, Loss, Question, Term, Terms
from tests.cluster.faulty.hanging_env import wait_while_hung

NOT_FINITE = Path("/tmp/not-finite")
COMPUTES_S = 0.2
"""A learner that only waits for data would raise ReplayStarved."""


class FailingLoss(Loss):
    """Trains nothing."""

    name = "failing"

    def __init__(self, _context: object) -> None:
        """It needs nothing."""

    def compute(self, *, logits_BTA: Tensor, mask_BT: Tensor) -> Terms:
        """0 at every step, or NaN."""
        wait_while_hung()
        time.sleep(COMPUTES_S)
        nothing_BT = logits_BTA.float().sum(-1) * 0
        if NOT_FINITE.exists():
            NOT_FINITE.unlink()
            nothing_BT = nothing_BT + float("nan")
        return {"nothing": Term(nothing_BT, mask_BT, 1.0)}


def choose(_question: Question) -> Choice:
    """Always on."""
    return Choice(FailingLoss)
