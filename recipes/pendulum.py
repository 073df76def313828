"""Pendulum-v1: swing a pendulum up and hold it there by a continuous torque."""

from __future__ import annotations

from recipes.recipe import Recipe
from runner.run import Run
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
            "agent": {"hidden_sizes": [64, 64], "value_head": "scalar", "value_trunk": "separate"},
            "actors": {"count": 1, "envs_per_actor": 4, "unroll_length": 64},
            "trainer": {
                "total_timesteps": 100_000,
                "batch_size": 8,
                "epochs": 10,
                "minibatches": 8,
                "shuffle": "steps",
                "gamma": 0.95,
                "reward_scale": 0.05,
                "optimizer": {"learning_rate": 1e-3},
                "losses": {"ppo_critic": {"gae_lambda": 0.95}, "ppo_actor": {"ent_coef": 0.0}},
            },
        }
    )


def train() -> Run:
    """A run of this recipe, to be changed and started."""
    return Run(settings(), recipe=RECIPE.name)


RECIPE = Recipe("pendulum", "Pendulum-v1, a continuous torque: swings up after 60,000 steps", settings)
