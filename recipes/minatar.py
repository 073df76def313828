"""MinAtar: Breakout, or another of its five games by `env.game`. Needs `oatmill[minatar]`."""

from __future__ import annotations

from recipes.recipe import Recipe
from runner.settings import RunSettings


def settings() -> RunSettings:
    """The guide's baseline (critic and actor) on images of 10x10 cells."""
    return RunSettings.of(
        {
            "env": {"kind": "minatar", "game": "breakout"},
            "agent": {"hidden_sizes": [128], "activation": "relu", "value_head": "scalar"},
            "actors": {"count": 2, "envs_per_actor": 32, "unroll_length": 64},
            "trainer": {
                "total_timesteps": 5_000_000,
                "batch_size": 64,
                "epochs": 4,
                "minibatches": 16,
                "shuffle": "steps",
                "gamma": 0.99,
                "optimizer": {"learning_rate": 1e-3, "schedule": "linear"},
                "losses": {"ppo_critic": {"gae_lambda": 0.95}, "ppo_actor": {"ent_coef": 0.01}},
            },
        }
    )


RECIPE = Recipe("minatar", "MinAtar's five games by env.game (needs oatmill[minatar])", settings)
train = RECIPE.train
