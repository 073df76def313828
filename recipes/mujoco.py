"""Gymnasium's MuJoCo tasks: HalfCheetah-v5, or others by `env.id`. Needs `oatmill[mujoco]`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recipes.baseline import NUMBERS, NUMBERS_AGENT
from recipes.recipe import Recipe
from runner.settings import RunSettings


def settings() -> RunSettings:
    """The guide's baseline (critic and actor) with a Gaussian policy, on normalised observations and rewards.

    A batch has 32 steps of each of 64 copies, because 64 copies show more different states than a few do. A
    learner step makes hundreds of updates, so actors wait for the new weights (`synchronous`): data of an older
    policy would be too far from the new one.
    """
    return RunSettings.of(
        {
            "env": {"kind": "gymnasium", "id": "HalfCheetah-v5"},
            "agent": {**NUMBERS_AGENT, "normalize_observations": True, "log_std_init": -0.5},
            "actors": {"count": 2, "envs_per_actor": 32, "unroll_length": 32, "synchronous": True},
            "trainer": {
                **NUMBERS,
                "total_timesteps": 1_000_000,
                "batch_size": 64,
                "minibatches": 16,
                "normalize_returns": True,
                "weights_dtype": "float32",
                "optimizer": {"learning_rate": 3e-4, "schedule": "linear", "eps": 1e-8},
                "losses": {"ppo_critic": {"gae_lambda": 0.98}, "ppo_actor": {"ent_coef": 0.0}},
            },
        }
    )


HALF_CHEETAH: Mapping[str, Any] = {
    "trainer": {
        "minibatches": 32,
        "prepare_every": "epoch",
        "losses": {"ppo_critic": {"gae_lambda": 0.95}, "ppo_actor": {"norm_adv": False}},
    }
}
"""HalfCheetah never falls, so what an action is worth shows within few steps: a shorter lambda and twice the updates."""
RECIPE = Recipe(
    "mujoco",
    "HalfCheetah-v5 and MuJoCo's other tasks by env.id (needs oatmill[mujoco])",
    settings,
    by_environment={"HalfCheetah-v5": HALF_CHEETAH},
)
train = RECIPE.train
