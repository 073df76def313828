"""LunarLanderContinuous-v3: land between the flags with engines that can be throttled. Needs `oatmill[box2d]`."""

from __future__ import annotations

from recipes.baseline import NUMBERS, NUMBERS_AGENT
from recipes.recipe import Recipe
from runner.settings import RunSettings


def settings() -> RunSettings:
    """The guide's baseline (critic and actor) with a Gaussian policy.

    Discount, lambda, batch, minibatches, epochs, learning rate and entropy bonus are those of the RL Zoo. Actors wait for
    the new weights, because a learner step makes 1,024 updates.
    """
    return RunSettings.of(
        {
            "env": {"kind": "gymnasium", "id": "LunarLanderContinuous-v3"},
            "agent": NUMBERS_AGENT,
            "actors": {"count": 2, "envs_per_actor": 8, "unroll_length": 128, "synchronous": True},
            "trainer": {
                **NUMBERS,
                "total_timesteps": 1_000_000,
                "batch_size": 128,
                "epochs": 4,
                "minibatches": 256,
                "gamma": 0.999,
                "reward_scale": 0.02,
                "optimizer": {"learning_rate": 3e-4, "schedule": "constant"},
                "coef_schedules": {"ent_coef": "linear"},
                "losses": {"ppo_critic": {"gae_lambda": 0.98}, "ppo_actor": {"ent_coef": 0.01}},
            },
        }
    )


RECIPE = Recipe(
    "lunar_lander_continuous", "LunarLanderContinuous-v3 (needs oatmill[box2d]): land with throttled engines", settings
)
train = RECIPE.train
