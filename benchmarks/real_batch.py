"""Batches of real trajectories, collected in this process as an actor collects them.

Random numbers would give wrong times. For example, most of an observation of MettaGrid is padding, which
the encoder skips.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from actors.environments.checks import first_observations
from actors.environments.make import make_environment
from actors.policy import ActingPolicy
from actors.unroll import Unroller
from agent.spec import AgentSpec
from learner.update.inputs import to_inputs
from protocol.data.batch import Batch
from protocol.data.observations import concatenated
from protocol.data.trajectory import Schema, TrajectoryBlock
from runner.settings import RunSettings

SEED = 1
PER_STEP = ("observations", "actions", "rewards", "terminated", "truncated", "valid", "behaviour_logits", "behaviour_value")
FINALS = ("final_observations", "final_step", "core_state")


class Collector:
    """Collects batches in this process as an actor does, with no server between.

    Args:
        settings: the run's settings; `actors.envs_per_actor` copies are stepped.
        seed: the seed of the environment, of the untrained network and of the actions.

    Attributes:
        spec: the network's specification.
        policy: the acting policy; give it newer weights by `load`.
    """

    def __init__(self, settings: RunSettings, seed: int = SEED) -> None:
        self._environment = make_environment(settings.env, copies=settings.actors.envs_per_actor, seed=seed)
        observations = first_observations(self._environment)
        self.spec = AgentSpec(self._environment.spaces, settings.agent)
        torch.manual_seed(seed)
        self.policy = ActingPolicy(self.spec, self._environment.num_rows, seed)
        discount = settings.trainer.discount if settings.trainer.normalize_returns else None
        self._unroller = Unroller(
            self._environment, observations, self.policy, settings.actors.unroll_length, discount=discount
        )

    def block(self) -> TrajectoryBlock:
        """The next unroll of all copies; the next call overwrites its arrays."""
        block = self._unroller.collect(lambda: True)
        assert block is not None, "the unroll is not cancelled"
        return block

    def packed(self) -> memoryview:
        """The next unroll as it is sent."""
        spaces, statistics = self._environment.spaces, self._environment.episode_statistics
        block, state_size = self.block(), self.spec.core_state_size
        returns = block.discounted_return is not None
        schema = Schema.of(spaces, core_state_size=state_size, episode_statistics=statistics, discounted_return=returns)
        return schema.pack(block)

    def batch(self, trajectories: int) -> Batch:
        """The next trajectories, `[trajectories, T]`; what an unroll has beyond them is dropped."""
        blocks: list[dict[str, Any]] = []
        rows = 0
        while rows < trajectories:
            block = self.block()
            blocks.append(arrays_of(block, rows))
            rows += len(block.rewards)
        joined = {name: concatenated([block[name] for block in blocks]) for name in blocks[0]}
        kept = joined["final_trajectory"] < trajectories
        arrays = {name: joined[name][:trajectories] for name in joined.keys() - {"final_trajectory", *FINALS} | {"core_state"}}
        finals = {name: joined[name][kept] for name in ("final_observations", "final_trajectory", "final_step")}
        version = np.full(trajectories, max(0, self.policy.version), np.int64)
        return Batch(0, 0, **arrays, **finals, policy_version=version, fresh=np.ones(trajectories, np.bool_))

    def close(self) -> None:
        """Close the environment."""
        self._environment.close()


def real_batch(settings: RunSettings, *, trajectories: int | None = None) -> tuple[AgentSpec, Batch]:
    """Collect the trajectories of one batch with the untrained policy.

    Args:
        settings: the run's settings.
        trajectories: the number of trajectories; None for `trainer.batch_size`.
    """
    with closing(Collector(settings)) as collector:
        return collector.spec, collector.batch(trajectories or settings.trainer.batch_size)


def arrays_of(block: TrajectoryBlock, rows_before: int) -> dict[str, Any]:
    """Copies of a block's arrays, because the unroller reuses them."""
    given = () if block.discounted_return is None else ("discounted_return",)
    arrays = {name: getattr(block, name).copy() for name in (*PER_STEP, *FINALS, *given)}
    return arrays | {"final_trajectory": block.final_trajectory + rows_before}


def real_inputs(settings: RunSettings, *, trajectories: int | None = None) -> tuple[AgentSpec, dict[str, Tensor]]:
    """The batch as the tensors that the learner reads."""
    spec, batch = real_batch(settings, trajectories=trajectories)
    return spec, cast("dict[str, Tensor]", to_inputs(batch, spec, settings.trainer, torch.device("cpu")))
