"""Gymnasium's MuJoCo tasks: HalfCheetah-v5, or others by `env.id`. Needs `oatmill[mujoco]`."""

from __future__ import annotations

from recipes.baseline import NUMBERS, NUMBERS_AGENT
from recipes.recipe import Recipe
from runner.settings import RunSettings


def settings() -> RunSettings:
    """The guide's baseline (critic and actor) with a Gaussian policy, on normalised observations and rewards.

    Batch, minibatches, epochs and learning rate are those of CleanRL's `ppo_continuous_action.py`.
    """
    return RunSettings.of(
        {
            "env": {"kind": "gymnasium", "id": "HalfCheetah-v5"},
            "agent": {**NUMBERS_AGENT, "normalise_observations": True},
            "actors": {"count": 2, "envs_per_actor": 4, "unroll_length": 64},
            "trainer": {
                **NUMBERS,
                "total_timesteps": 1_000_000,
                "batch_size": 32,
                "normalise_rewards": True,
                "optimizer": {"learning_rate": 3e-4, "schedule": "linear"},
            },
        }
    )


RECIPE = Recipe("mujoco", "HalfCheetah-v5 and MuJoCo's other tasks by env.id (needs oatmill[mujoco])", settings)
train = RECIPE.train
