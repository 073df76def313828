"""What one learner rank trains on in one learner step (NumPy only)."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.data.trajectory import Array


@dataclass(frozen=True)
class Batch:
    """B trajectories of T steps, batch-major.

    `observations[:, t + 1]` follows same-step autoreset: after an end at t it belongs to the next episode.
    """

    batch_id: int  # what CONSUMED names
    learner_step: int
    observations: Array  # [B, T + 1, ...]
    actions: Array  # [B, T] or [B, T, factors], int32
    rewards: Array  # [B, T], float32, unscaled
    terminated: Array  # [B, T], bool
    truncated: Array  # [B, T], bool
    valid: Array  # [B, T], bool
    behaviour_logits: Array  # [B, T, A], float32
    behaviour_value: Array  # [B, T], float32
    core_state: Array  # [B, S], float32
    final_observations: Array  # [F, ...]
    final_trajectory: Array  # [F], int32, the row in 0..B-1
    final_step: Array  # [F], int32
    policy_version: Array  # [B], int64, the version that collected each row
    fresh: Array  # [B], bool: False for a row that was trained before (replayed)
    importance: Array | None = None  # [B], float32, what a row's terms count for; None where each counts for 1
    discounted_return: Array | None = None  # [B], float32, of the episode before the first step; None if nobody reads it

    @property
    def size(self) -> int:
        """B, the number of trajectories."""
        return int(self.rewards.shape[0])
