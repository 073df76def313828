"""A batch of real trajectories, collected as an actor collects them.

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
from protocol.data.trajectory import TrajectoryBlock
from runner.settings import RunSettings

SEED = 1
PER_STEP = ("observations", "actions", "rewards", "terminated", "truncated", "valid", "behaviour_logits", "behaviour_value")
FINALS = ("final_observations", "final_step", "core_state")


def real_batch(settings: RunSettings, *, trajectories: int | None = None) -> tuple[AgentSpec, Batch]:
    """Collect the trajectories of one batch with the untrained policy.

    Args:
        settings: the run's settings.
        trajectories: the number of trajectories; None for `trainer.batch_size`.
    """
    wanted = trajectories or settings.trainer.batch_size
    with closing(make_environment(settings.env, copies=settings.actors.envs_per_actor, seed=SEED)) as environment:
        observations = first_observations(environment)
        spec = AgentSpec(environment.spaces, settings.agent)
        torch.manual_seed(SEED)
        policy = ActingPolicy(spec, environment.num_rows, SEED)
        discount = settings.trainer.discount if settings.trainer.normalise_rewards else None
        unroller = Unroller(environment, observations, policy, settings.actors.unroll_length, discount=discount)
        blocks: list[dict[str, Any]] = []
        while sum(len(block["rewards"]) for block in blocks) < wanted:
            block = unroller.collect(lambda: True)
            assert block is not None, "the unroll is not cancelled"
            blocks.append(arrays_of(block, sum(len(earlier["rewards"]) for earlier in blocks)))
    joined = {name: concatenated([block[name] for block in blocks]) for name in blocks[0]}
    kept = joined["final_trajectory"] < wanted
    rows = {name: joined[name][:wanted] for name in joined.keys() - {"final_trajectory", *FINALS} | {"core_state"}}
    finals = {name: joined[name][kept] for name in ("final_observations", "final_trajectory", "final_step")}
    batch = Batch(0, 0, **rows, **finals, policy_version=np.zeros(wanted, np.int64), fresh=np.ones(wanted, np.bool_))
    return spec, batch


def arrays_of(block: TrajectoryBlock, rows_before: int) -> dict[str, Any]:
    """Copies of a block's arrays, because the unroller reuses them."""
    given = () if block.discounted_return is None else ("discounted_return",)
    arrays = {name: getattr(block, name).copy() for name in (*PER_STEP, *FINALS, *given)}
    return arrays | {"final_trajectory": block.final_trajectory + rows_before}


def real_inputs(settings: RunSettings, *, trajectories: int | None = None) -> tuple[AgentSpec, dict[str, Tensor]]:
    """The batch as the tensors that the learner reads."""
    spec, batch = real_batch(settings, trajectories=trajectories)
    return spec, cast("dict[str, Tensor]", to_inputs(batch, spec, settings.trainer, torch.device("cpu")))
