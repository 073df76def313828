"""Pong on the Arcade Learning Environment. Needs `oatmill[atari]`."""

from __future__ import annotations

from recipes.recipe import Recipe
from runner.settings import RunSettings


def settings() -> RunSettings:
    """The guide's baseline (critic and actor) on stacks of four grey 84x84 frames, with frame skip 4."""
    return RunSettings.of(
        {
            "env": {"kind": "atari", "game": "pong"},
            "agent": {"encoder": "nature", "hidden_sizes": [512], "activation": "relu", "value_head": "scalar"},
            "actors": {"count": 2, "envs_per_actor": 8, "unroll_length": 128},
            "trainer": {
                "total_timesteps": 3_000_000,
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


RECIPE = Recipe("atari_pong", "Pong from pixels (needs oatmill[atari]): less than an hour on two cores", settings)
train = RECIPE.train
