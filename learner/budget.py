"""How large a batch is when the budget is small (no torch)."""

from __future__ import annotations

from learner.settings import TrainerSettings

MIN_BATCHES = 20
"""The batch is made smaller if the budget has fewer batches than this, so that a short run also learns and reports."""


def batch_unit(trainer: TrainerSettings) -> int:
    """The batch size is a multiple of this: every rank gets the same number of minibatches."""
    return trainer.learners * (trainer.minibatches if trainer.shuffle == "trajectories" else 1)


def fit_batch(trainer: TrainerSettings, unroll_length: int) -> int:
    """The batch size in trajectories that the budget allows.

    Args:
        trainer: batch_size, total_timesteps, minibatches, learners.
        unroll_length: T, env steps of a trajectory.

    Returns:
        `batch_size` where the budget holds at least 20 such batches, otherwise the largest that makes 20; always a multiple of
        `batch_unit`, and at least that.
    """
    unit = batch_unit(trainer)
    most = trainer.total_timesteps // (MIN_BATCHES * unroll_length)
    wanted = min(trainer.batch_size, most)
    return max(unit, wanted // unit * unit)
