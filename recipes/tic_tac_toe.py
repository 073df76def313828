"""Tic-tac-toe: one network plays both sides against itself, and action masks keep it to the free cells."""

from __future__ import annotations

from recipes.baseline import CHOICES
from recipes.recipe import Recipe
from runner.settings import RunSettings


def settings() -> RunSettings:
    """The guide's baseline (critic and actor). The discount is 1: a game has at most nine moves."""
    return RunSettings.of(
        {
            "env": {"kind": "pettingzoo", "factory": "actors.environments.adapters.tic_tac_toe:TicTacToe"},
            "agent": {"hidden_sizes": [128, 128], "value_head": "scalar"},
            "actors": {"count": 2, "envs_per_actor": 32, "unroll_length": 32},
            "trainer": {
                **CHOICES,
                "total_timesteps": 1_000_000,
                "batch_size": 128,
                "shuffle": "steps",
                "minibatches": 16,
                "gamma": 1.0,
                "losses": {"ppo_critic": {"gae_lambda": 0.9}, "ppo_actor": {"ent_coef": 0.1}},
            },
        }
    )


RECIPE = Recipe("tic_tac_toe", "Tic-tac-toe by self-play, with action masks that prevent illegal moves", settings)
train = RECIPE.train
