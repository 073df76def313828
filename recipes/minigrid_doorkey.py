"""MiniGrid-DoorKey-6x6: find the key, open the door, reach the goal; recurrent. Needs `oatmill[minigrid]`."""

from __future__ import annotations

from recipes.baseline import CHOICES
from recipes.recipe import Recipe
from runner.settings import RunSettings


def settings() -> RunSettings:
    """The guide's baseline (critic and actor) with an LSTM, because the agent sees only a part of the room.

    A random policy reaches the goal in a few percent of episodes. In batches without rewards,
    normalised advantages would turn noise into large updates, so advantages are not normalised.
    Instead, rewards are scaled up, so that they outweigh the entropy bonus.

    Half of each batch is replayed, so that the rare successes are trained on more than once.
    """
    return RunSettings.of(
        {
            "env": {"kind": "minigrid", "id": "MiniGrid-DoorKey-6x6-v0"},
            "agent": {"hidden_sizes": [64], "activation": "relu", "core": "lstm", "core_size": 128, "value_head": "scalar"},
            "actors": {"count": 2, "envs_per_actor": 64, "unroll_length": 32},
            "replay": {"fraction": 0.5},
            "trainer": {
                **CHOICES,
                "total_timesteps": 1_000_000,
                "batch_size": 128,
                "minibatches": 8,
                "reward_scale": 10.0,
                "losses": {"ppo_critic": {"gae_lambda": 0.95}, "ppo_actor": {"norm_adv": False, "anchor": "proximal"}},
            },
        }
    )


RECIPE = Recipe(
    "minigrid_doorkey",
    "MiniGrid-DoorKey-6x6 with an LSTM (needs oatmill[minigrid]): find the key, open the door, reach the goal",
    settings,
)
train = RECIPE.train
