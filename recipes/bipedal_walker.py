"""BipedalWalker-v3: walk on two legs; solved at a mean return of 300. Needs `oatmill[box2d]`."""

from __future__ import annotations

from recipes.baseline import NUMBERS, NUMBERS_AGENT
from recipes.recipe import Recipe
from runner.settings import RunSettings


def settings() -> RunSettings:
    """The guide's baseline (critic and actor) with a Gaussian policy, on normalised observations and rewards.

    Discount, lambda, clipping, epochs and learning rate are those of the RL Zoo.
    """
    return RunSettings.of(
        {
            "env": {"kind": "gymnasium", "id": "BipedalWalker-v3"},
            "agent": {**NUMBERS_AGENT, "normalise_observations": True},
            "actors": {"count": 2, "envs_per_actor": 16, "unroll_length": 64},
            "trainer": {
                **NUMBERS,
                "total_timesteps": 5_000_000,
                "batch_size": 128,
                "minibatches": 64,
                "gamma": 0.999,
                "normalise_rewards": True,
                "losses": {"ppo_critic": {"gae_lambda": 0.95}, "ppo_actor": {"ent_coef": 0.0, "clip_coef": 0.18}},
            },
        }
    )


RECIPE = Recipe("bipedal_walker", "BipedalWalker-v3 (needs oatmill[box2d]): walk on two legs", settings)
train = RECIPE.train
