"""Small trajectories whose numbers identify them."""

from __future__ import annotations

import numpy as np

from protocol.data.run_schema import RunSchema
from protocol.data.spaces import ActionSpace, ObservationSpace, Spaces
from protocol.data.trajectory import TrajectoryBlock
from replay.store.queue import Slice

SPACES = Spaces(ObservationSpace("vector", (2,), "float32"), ActionSpace((3,)))
SCHEMA = RunSchema(SPACES, core_state_size=0, episode_statistics=("hearts",))


def block(
    rows: int,
    *,
    steps: int = 2,
    version: int = 0,
    mark: float = 0.0,
    first: int = 0,
    truncate: tuple[tuple[int, int], ...] = (),
    returns: tuple[float, ...] = (),
    schema: RunSchema = SCHEMA,
) -> TrajectoryBlock:
    """A sound block. Row i's observations are [mark, first + i] at every step.

    Args:
        rows: n.
        steps: T.
        version: the policy version.
        mark: the first number of every observation.
        first: the second number of row 0's observations.
        truncate: (row, step) of each step that was cut; its final observation is [mark, 1000 + row].
        returns: the return of each episode that ended; its length is 10 times that and its `hearts` half of it.
        schema: fixes the sizes of logits and core state.
    """
    observations = np.zeros((rows, steps + 1, 2), np.float32)
    observations[..., 0] = mark
    observations[..., 1] = (first + np.arange(rows))[:, None]
    truncated = np.zeros((rows, steps), np.bool_)
    for row, step in truncate:
        truncated[row, step] = True
    return TrajectoryBlock(
        observations=observations,
        actions=np.ones((rows, steps), np.int32),
        rewards=np.full((rows, steps), 0.5, np.float32),
        terminated=np.zeros((rows, steps), np.bool_),
        truncated=truncated,
        valid=np.ones((rows, steps), np.bool_),
        behaviour_logits=np.zeros((rows, steps, 3), np.float32),
        behaviour_value=np.full((rows, steps), 0.25, np.float32),
        core_state=np.zeros((rows, schema.core_state_size), np.float32),
        final_observations=np.array([[mark, 1000 + row] for row, _ in truncate], np.float32).reshape(len(truncate), 2),
        final_trajectory=np.array([row for row, _ in truncate], np.int32),
        final_step=np.array([step for _, step in truncate], np.int32),
        episode_return=np.array(returns, np.float32),
        episode_length=np.array([10 * value for value in returns], np.int32),
        episode_statistics=np.array([[value / 2] for value in returns], np.float32).reshape(len(returns), 1),
        policy_version=version,
    )


def as_slice(content: TrajectoryBlock, start: int, stop: int) -> Slice:
    """Rows of a block as the queue would cut them."""
    payload = SCHEMA.trajectory.pack(content)
    return Slice(SCHEMA.trajectory.views(payload, content.size), start, stop, content.policy_version, 1.5)
