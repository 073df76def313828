"""The minibatches of a learner step, and when the batch's targets are computed again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor

from learner.update.objective import Objective


def updates_per_prepare(prepare_every: Literal["batch", "epoch"] | int, *, epochs: int, minibatches: int) -> int:
    """The number of updates that use the same targets (`trainer.prepare_every`)."""
    if isinstance(prepare_every, int):
        return prepare_every
    return minibatches * (epochs if prepare_every == "batch" else 1)


class Minibatches:
    """Draws the minibatches of one batch, epoch by epoch.

    Args:
        objective: prepares the targets.
        inputs: the batch.
        values: the first result of `objective.prepare(inputs)`.
        seconds: the time of later calls of `prepare` is added to its entry `prepare`.
    """

    def __init__(
        self, objective: Objective, inputs: Mapping[str, Tensor], values: Mapping[str, Tensor], seconds: dict[str, float]
    ) -> None:
        self.objective = objective
        self.inputs = inputs
        self.values = values
        self.seconds = seconds
        self.drawn_from = objective.drawn_from(values)
        self.since_prepare = 0

    def epoch(self) -> Iterator[tuple[dict[str, Tensor], bool]]:
        """Shuffle the rows and yield each minibatch, and whether it is the epoch's last one."""
        trainer = self.objective.context.trainer
        mask_BT = self.drawn_from["mask_BT"]
        shuffled = torch.randperm(len(mask_BT), generator=self.objective.context.generator, device=mask_BT.device)
        parts = shuffled.tensor_split(trainer.minibatches)  # as many as the setting says; their sizes differ by one row at most
        every = updates_per_prepare(trainer.prepare_every, epochs=trainer.epochs, minibatches=len(parts))
        left = len(parts)
        while left:
            if self.since_prepare == every:
                self.prepare_again()
            count = min(left, every - self.since_prepare)
            left -= count
            position = len(parts) - left
            some = self.objective.minibatches(self.drawn_from, parts[position - count : position], left=left)
            for number, minibatch in enumerate(some, start=1):
                yield minibatch, not left and number == count
            self.since_prepare += count

    def prepare_again(self) -> None:
        """Compute the targets with the current weights; PPO's ratios keep their anchor."""
        started = time.perf_counter()
        self.values = self.objective.prepare(self.inputs, start=self.values)
        self.drawn_from = self.objective.drawn_from(self.values)
        self.since_prepare = 0
        self.seconds["prepare"] += time.perf_counter() - started
