"""Pendulum-v1: swing a pendulum up and hold it there by a continuous torque."""

from __future__ import annotations

from recipes.baseline import NUMBERS, NUMBERS_AGENT
from recipes.recipe import Recipe
from runner.settings import RunSettings


def settings() -> RunSettings:
    """The guide's baseline (critic and actor) on Pendulum-v1, with a Gaussian policy.

    A swing-up pays off within a few seconds, so a discount of 0.95 is enough and makes returns easy to
    predict. Rewards go down to -16 per step; scaled by 0.05 they suit a scalar value head. Batches are
    small, because 100,000 steps are few.
    """
    return RunSettings.of(
        {
            "env": {"kind": "gymnasium", "id": "Pendulum-v1"},
            "agent": NUMBERS_AGENT,
            "actors": {"count": 1, "envs_per_actor": 4, "unroll_length": 64},
            "trainer": {
                **NUMBERS,
                "total_timesteps": 100_000,
                "batch_size": 8,
                "minibatches": 8,
                "gamma": 0.95,
                "reward_scale": 0.05,
                "optimizer": {"learning_rate": 1e-3},
            },
        }
    )


RECIPE = Recipe("pendulum", "Pendulum-v1, a continuous torque: swings up after 60,000 steps", settings)
train = RECIPE.train
