"""CartPole-v1: balance a pole. Solved (mean return 475) within seconds."""

from __future__ import annotations

from recipes.baseline import CHOICES
from recipes.recipe import Recipe
from runner.settings import RunSettings


def settings() -> RunSettings:
    """The guide's baseline (critic and actor) on CartPole-v1."""
    return RunSettings.of(
        {
            "env": {"kind": "gymnasium", "id": "CartPole-v1"},
            "agent": {"hidden_sizes": [64, 64], "value_head": "scalar"},
            "actors": {"count": 2, "envs_per_actor": 16, "unroll_length": 64},
            "trainer": {**CHOICES, "total_timesteps": 300_000, "batch_size": 32, "reward_scale": 0.02},
        }
    )


RECIPE = Recipe("cartpole", "CartPole-v1, vectorised: a mean return of 475 within seconds", settings)
train = RECIPE.train
