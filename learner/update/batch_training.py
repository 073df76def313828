"""What a learner step does with a batch before its weights are published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from learner.running_statistics import ObservationStatistics
from learner.update.inputs import to_inputs
from learner.update.schedules import learning_rate, schedule_coefficients
from learner.update.updater import Record, Updater
from protocol.data.batch import Batch


class BatchTraining:
    """Trains on batches: running statistics, conversion to tensors, schedules and updates.

    Args:
        updater: the networks, the plan and the optimiser.
        device: the device of the networks.
    """

    def __init__(self, updater: Updater, device: torch.device) -> None:
        self._updater, self._device = updater, device
        context = updater.context
        self._statistics = ObservationStatistics(context.model, context.reducer, context.trainer.freeze_parts)

    def train(self, batch: Batch, *, env_steps: int, report: bool = False, priorities: bool = False) -> Record:
        """Train on a batch. Every rank must call it.

        Args:
            batch: the batch of this rank; its arrays must be writable.
            env_steps: the env steps before this batch, which schedules go by.
            report: whether to compute statistics of the whole batch.
            priorities: whether to compute each row's priority.
        """
        updater, context = self._updater, self._updater.context
        self._statistics.before_training(batch)
        factor = 1.0
        if context.reward_scale is not None:  # rewards were not acted with, so their scale takes in the batch first
            context.reward_scale.update(batch)
            factor = context.reward_scale.factor
        inputs = to_inputs(batch, context.model.spec, context.trainer, self._device, reward_factor=factor)
        schedule_coefficients(context, updater.plan.descriptors, env_steps)
        record = updater.learn(
            cast("Mapping[str, Tensor]", inputs),
            learning_rate=learning_rate(context.trainer, env_steps),
            report=report,
            priorities=priorities,
        )
        self._statistics.after_training(batch)
        return record
