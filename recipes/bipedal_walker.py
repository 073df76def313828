"""BipedalWalker-v3: walk on two legs; solved at a mean return of 300. Needs `oatmill[box2d]`."""

from __future__ import annotations

from recipes.recipe import Recipe
from runner.run import Run
from runner.settings import RunSettings


def settings() -> RunSettings:
    """The guide's baseline (critic and actor) with a Gaussian policy, on normalised observations and rewards.

    Discount, lambda, clipping, epochs and learning rate are those of the RL Zoo.
    """
    return RunSettings.of(
        {
            "env": {"kind": "gymnasium", "id": "BipedalWalker-v3"},
            "agent": {
                "hidden_sizes": [64, 64],
                "value_head": "scalar",
                "value_trunk": "separate",
                "normalise_observations": True,
            },
            "actors": {"count": 2, "envs_per_actor": 16, "unroll_length": 64},
            "trainer": {
                "total_timesteps": 5_000_000,
                "batch_size": 128,
                "epochs": 10,
                "minibatches": 64,
                "shuffle": "steps",
                "gamma": 0.999,
                "normalise_rewards": True,
                "optimizer": {"learning_rate": 3e-4},
                "losses": {"ppo_critic": {"gae_lambda": 0.95}, "ppo_actor": {"ent_coef": 0.0, "clip_coef": 0.18}},
            },
        }
    )


def train() -> Run:
    """A run of this recipe, to be changed and started."""
    return Run(settings(), recipe=RECIPE.name)


RECIPE = Recipe("bipedal_walker", "BipedalWalker-v3 (needs oatmill[box2d]): walk on two legs", settings)
