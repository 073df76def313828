"""The data that one learner rank trains on in one learner step (NumPy only)."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.data.observations import Observations
from protocol.data.trajectory import Array


@dataclass(frozen=True)
class Batch:
    """B trajectories of T steps, batch-major.

    Observations follow same-step autoreset: if an episode ends at step t, `observations[:, t + 1]`
    is the first observation of the next episode.
    """

    batch_id: int  # the number that CONSUMED names
    learner_step: int
    observations: Observations  # [B, T + 1, ...]
    actions: Array  # [B, T] int32, or [B, T, width], int32, or float32 where it has numbers
    rewards: Array  # [B, T], float32, unscaled
    terminated: Array  # [B, T], bool
    truncated: Array  # [B, T], bool
    valid: Array  # [B, T], bool
    behaviour_logits: Array  # [B, T, A], float32: logits, then means and log stds of numbers
    behaviour_value: Array  # [B, T], float32
    core_state: Array  # [B, S], float32
    final_observations: Observations  # [F, ...]
    final_trajectory: Array  # [F], int32, the row in 0..B-1
    final_step: Array  # [F], int32
    policy_version: Array  # [B], int64, the version that collected each row
    fresh: Array  # [B], bool: False for a row that was trained on before (replayed)
    importance: Array | None = None  # [B], float32, the weight of each row in the losses; None if all are 1
    discounted_return: Array | None = None  # [B], float32, of the episode before the first step

    @property
    def size(self) -> int:
        """B, the number of trajectories."""
        return int(self.rewards.shape[0])
