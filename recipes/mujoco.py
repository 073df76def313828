"""Gymnasium's MuJoCo tasks: HalfCheetah-v5, or others by `env.id`. Needs `oatmill[mujoco]`."""

from __future__ import annotations

from recipes.recipe import Recipe
from runner.run import Run
from runner.settings import RunSettings


def settings() -> RunSettings:
    """The guide's baseline (critic and actor) with a Gaussian policy, on normalised observations and rewards.

    Batch, minibatches, epochs and learning rate are those of CleanRL's `ppo_continuous_action.py`.
    """
    return RunSettings.of(
        {
            "env": {"kind": "gymnasium", "id": "HalfCheetah-v5"},
            "agent": {
                "hidden_sizes": [64, 64],
                "value_head": "scalar",
                "value_trunk": "separate",
                "normalise_observations": True,
            },
            "actors": {"count": 2, "envs_per_actor": 4, "unroll_length": 64},
            "trainer": {
                "total_timesteps": 1_000_000,
                "batch_size": 32,
                "epochs": 10,
                "minibatches": 32,
                "shuffle": "steps",
                "gamma": 0.99,
                "normalise_rewards": True,
                "optimizer": {"learning_rate": 3e-4, "schedule": "linear"},
                "losses": {"ppo_critic": {"gae_lambda": 0.95}, "ppo_actor": {"ent_coef": 0.0}},
            },
        }
    )


def train() -> Run:
    """A run of this recipe, to be changed and started."""
    return Run(settings(), recipe=RECIPE.name)


RECIPE = Recipe("mujoco", "HalfCheetah-v5 and MuJoCo's other tasks by env.id (needs oatmill[mujoco])", settings)
