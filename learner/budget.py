"""Reduces the batch size for small budgets (no torch)."""

from __future__ import annotations

from learner.settings import TrainerSettings
from oatmill.errors import UserError

MIN_BATCHES = 20
"""The batch is made smaller if the budget would give fewer batches, so that short runs learn, too."""


def check_budget_left(env_steps: int, trainer: TrainerSettings) -> None:
    """Raise a UserError if a checkpoint of so many env steps has spent the budget."""
    if env_steps >= trainer.total_timesteps:
        raise UserError(
            f"the checkpoint has trained {env_steps} env steps already; "
            f"to continue, raise trainer.total_timesteps above that, got {trainer.total_timesteps}"
        )


def batch_unit(trainer: TrainerSettings) -> int:
    """The batch size must be a multiple of this, so that all ranks have equally many minibatches."""
    return trainer.learners * (trainer.minibatches if trainer.shuffle == "trajectories" else 1)


def least_batch(trainer: TrainerSettings, unroll_length: int) -> int:
    """The smallest batch size that gives every minibatch of every rank a row, in trajectories of so many env steps."""
    rows = 1 if trainer.shuffle == "trajectories" else unroll_length
    return trainer.learners * -(-trainer.minibatches // rows)


def fit_batch(trainer: TrainerSettings, unroll_length: int) -> int:
    """The batch size in trajectories that fits the budget.

    Args:
        trainer: the learner's settings.
        unroll_length: T, the env steps of a trajectory.

    Returns:
        `batch_size` if the budget gives at least 20 such batches, otherwise the largest size that does.
        Always a multiple of `batch_unit`, and at least `least_batch`.
    """
    unit = batch_unit(trainer)
    most = trainer.total_timesteps // (MIN_BATCHES * unroll_length)
    wanted = min(trainer.batch_size, most)
    return max(least_batch(trainer, unroll_length), wanted // unit * unit)
