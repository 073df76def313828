"""Trains in one process: collect a batch, run the real learner step on it, act with the new weights.

There is no server and no lag, and all random numbers follow from the seed, so it shows what a learner step does, apart from
everything that a running system adds.
"""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.losses import make
from benchmarks.real_batch import Collector
from learner.pack_weights import pack
from learner.update.batch_training import BatchTraining
from learner.update.updater import Updater
from protocol.data.batch import Batch
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
        self._batch_size = settings.trainer.batch_size
        self._collector = Collector(settings, settings.trainer.seed)
        self.updater: Updater = make(settings, self._collector.spec)
        self._training = BatchTraining(self.updater, torch.device("cpu"))
        self.env_steps = self._version = 0
        self._act_with_new_weights()

    def step(self) -> Batch:
        """Collect a batch and train on it; returns the batch."""
        batch = self._collector.batch(self._batch_size)
        self._training.train(batch, env_steps=self.env_steps)
        self.env_steps += int(np.count_nonzero(batch.valid))
        self._act_with_new_weights()
        return batch

    def close(self) -> None:
        """Close the environment."""
        self._collector.close()

    def _act_with_new_weights(self) -> None:
        self._version += 1
        self._collector.policy.load(pack(self.updater.acting_network, self._version, "float32"))
