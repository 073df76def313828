"""LunarLander-v3: land between the flags; solved at a mean return of 200. Needs `oatmill[box2d]`."""

from __future__ import annotations

from recipes.recipe import Recipe
from runner.settings import RunSettings


def settings() -> RunSettings:
    """The guide's baseline (critic and actor) on LunarLander-v3. Half of each batch is replayed.

    If a policy only hovers, all flights of a batch are similar. Their advantages are then noise, which
    normalisation makes large. Replayed trajectories keep landings and crashes in every batch, and
    minibatches of single steps are as diverse as the batch.

    A learner step makes 256 updates. Actors wait for their result, and targets are computed again before every epoch, so that
    both are as new as the policy.
    """
    return RunSettings.of(
        {
            "env": {"kind": "gymnasium", "id": "LunarLander-v3"},
            "agent": {"hidden_sizes": [128, 128], "value_head": "scalar"},
            "actors": {"count": 2, "envs_per_actor": 16, "unroll_length": 64, "synchronous": True},
            "replay": {"fraction": 0.5, "buffer_size": 16384, "eviction": "random"},
            "trainer": {
                "total_timesteps": 2_000_000,
                "batch_size": 128,
                "epochs": 4,
                "prepare_every": "epoch",
                "minibatches": 64,
                "shuffle": "steps",
                "gamma": 0.999,
                "reward_scale": 0.02,
                "optimizer": {"learning_rate": 1e-3},
                "losses": {"ppo_critic": {"gae_lambda": 0.98}, "ppo_actor": {"anchor": "proximal", "ent_coef": 0.01}},
            },
        }
    )


RECIPE = Recipe("lunar_lander", "LunarLander-v3 (needs oatmill[box2d]): a mean return of 250 after 0.3 million steps", settings)
train = RECIPE.train
