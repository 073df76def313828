"""CartPole-v1: balance a pole. Solved (mean return 475) within seconds."""

from __future__ import annotations

from recipes.recipe import Recipe
from runner.run import Run
from runner.settings import RunSettings


def settings() -> RunSettings:
    """The guide's baseline (critic and actor) on CartPole-v1."""
    return RunSettings.of(
        {
            "env": {"kind": "gymnasium", "id": "CartPole-v1"},
            "agent": {"hidden_sizes": [64, 64], "value_head": "scalar"},
            "actors": {"count": 2, "envs_per_actor": 16, "unroll_length": 64},
            "trainer": {
                "total_timesteps": 300_000,
                "batch_size": 32,
                "epochs": 4,
                "minibatches": 4,
                "gamma": 0.99,
                "reward_scale": 0.02,
                "optimizer": {"learning_rate": 1e-3},
                "losses": {"ppo_critic": {"gae_lambda": 0.95}},
            },
        }
    )


def train() -> Run:
    """A run of this recipe, to be changed and started."""
    return Run(settings(), recipe=RECIPE.name)


RECIPE = Recipe("cartpole", "CartPole-v1, vectorised: a mean return of 475 within seconds", settings)
