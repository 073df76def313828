"""Pong on the Arcade Learning Environment's vectorised class. Needs `oatmill[atari]`, and more cores or a GPU to be solved."""

from __future__ import annotations

from recipes.recipe import Recipe
from runner.run import Run
from runner.settings import RunSettings


def settings() -> RunSettings:
    """The guide's baseline, critic and actor, on four grey frames of 84x84, each action held for four frames."""
    return RunSettings.of(
        {
            "env": {"kind": "atari", "game": "pong"},
            "agent": {"encoder": "nature", "hidden_sizes": [512], "activation": "relu", "value_head": "scalar"},
            "actors": {"count": 2, "envs_per_actor": 8, "unroll_length": 128},
            "trainer": {
                "total_timesteps": 10_000_000,
                "batch_size": 8,
                "epochs": 3,
                "minibatches": 4,
                "shuffle": "steps",
                "gamma": 0.99,
                "reward_clip": 1.0,
                "optimizer": {"learning_rate": 5e-4},
                "losses": {"ppo_critic": {"gae_lambda": 0.95}},
            },
        }
    )


def train() -> Run:
    """A run of this recipe, to be changed and started."""
    return Run(settings(), recipe=RECIPE.name)


RECIPE = Recipe("atari_pong", "Pong from its pixels (needs oatmill[atari]): hours on two cores", settings)
