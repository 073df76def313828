"""Trains in one process: collect a batch, run the real learner step on it, act with the new weights.

There is no server and no lag, and all random numbers follow from the seed, so it shows what a learner step does, apart from
everything that a running system adds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
from torch import Tensor

from benchmarks.losses import make
from benchmarks.real_batch import Collector
from learner.pack_weights import pack
from learner.running_statistics import ObservationStatistics
from learner.update.inputs import to_inputs
from learner.update.schedules import learning_rate, schedule_coefficients
from learner.update.updater import Updater
from runner.settings import RunSettings


class OneProcess:
    """A run in this process.

    Args:
        settings: the run's settings. Without a replay buffer; `trainer.seed` is the seed of everything.

    Attributes:
        updater: the networks and the plan.
        env_steps: the env steps so far.
    """

    def __init__(self, settings: RunSettings) -> None:
        assert not settings.replay.fraction, "there is no replay buffer in one process"
        self._trainer = settings.trainer
        self._collector = Collector(settings, settings.trainer.seed)
        self.updater: Updater = make(settings, self._collector.spec)
        context = self.updater.context
        self._statistics = ObservationStatistics(context.model, context.reducer, settings.trainer.freeze_parts)
        self.env_steps = self._version = 0
        self._act_with_new_weights()

    def step(self) -> None:
        """Collect a batch and train on it."""
        trainer, context = self._trainer, self.updater.context
        batch = self._collector.batch(trainer.batch_size)
        self._statistics.before_training(batch)
        if context.reward_scale is not None:
            context.reward_scale.update(batch)
        factor = 1.0 if context.reward_scale is None else context.reward_scale.factor
        inputs = to_inputs(batch, self._collector.spec, trainer, torch.device("cpu"), reward_factor=factor)
        schedule_coefficients(context, self.updater.plan.descriptors, self.env_steps)
        rate = learning_rate(trainer, self.env_steps)
        self.updater.learn(cast("Mapping[str, Tensor]", inputs), learning_rate=rate, report=False)
        self._statistics.after_training(batch)
        self.env_steps += int(np.count_nonzero(batch.valid))
        self._act_with_new_weights()

    def close(self) -> None:
        """Close the environment."""
        self._collector.close()

    def _act_with_new_weights(self) -> None:
        self._version += 1
        self._collector.policy.load(pack(self.updater.acting_network, self._version, "float32"))
