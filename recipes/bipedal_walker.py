"""BipedalWalker-v3: walk on two legs; solved at a mean return of 300. Needs `oatmill[box2d]`."""

from __future__ import annotations

from recipes.baseline import NUMBERS, NUMBERS_AGENT
from recipes.recipe import Recipe
from runner.settings import RunSettings


def settings() -> RunSettings:
    """The guide's baseline (critic and actor) with a Gaussian policy, on normalised observations and rewards.

    Discount, lambda, clipping, epochs and learning rate are those of the RL Zoo. A batch is 64 steps of each of 64 copies,
    and a learner step makes 320 updates, so actors wait for the new weights, and targets are computed for each epoch.
    """
    return RunSettings.of(
        {
            "env": {"kind": "gymnasium", "id": "BipedalWalker-v3"},
            "agent": {**NUMBERS_AGENT, "normalize_observations": True, "log_std_init": -0.5},
            "actors": {"count": 2, "envs_per_actor": 32, "unroll_length": 64, "synchronous": True},
            "trainer": {
                **NUMBERS,
                "total_timesteps": 1_500_000,
                "batch_size": 64,
                "minibatches": 32,
                "prepare_every": "epoch",
                "gamma": 0.999,
                "normalize_returns": True,
                "optimizer": {"learning_rate": 3e-4, "schedule": "linear", "eps": 1e-8},
                "losses": {"ppo_critic": {"gae_lambda": 0.95}, "ppo_actor": {"ent_coef": 0.0, "clip_coef": 0.18}},
            },
        }
    )


RECIPE = Recipe("bipedal_walker", "BipedalWalker-v3 (needs oatmill[box2d]): walk on two legs", settings)
train = RECIPE.train
