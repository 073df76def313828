"""Cogs versus clips on MettaGrid: a team turns elements into hearts. Needs `oatmill[cogs]`."""

from __future__ import annotations

from recipes.baseline import CHOICES
from recipes.recipe import Recipe
from runner.run import Run
from runner.settings import RunSettings


def settings(*, num_cogs: int = 4, mission: str = "easy_hearts_small") -> RunSettings:
    """The guide's baseline (critic and actor) on one of its missions.

    Args:
        num_cogs: agents in the team, 1 to 24.
        mission: `easy_hearts_small` (a 9x9 map, 5 actions) or `easy_hearts` (the guide's hub, 157
            actions).

    Raises:
        SettingsError: if there is no such mission or the team is too large.
    """
    return RunSettings.of(
        {
            "env": {"kind": "cogs", "mission": mission, "num_cogs": num_cogs},
            "agent": {"hidden_sizes": [128, 128], "activation": "relu", "value_head": "scalar"},
            "actors": {"count": 2, "envs_per_actor": 16, "unroll_length": 64},
            "trainer": {
                **CHOICES,
                "total_timesteps": 4_000_000,
                "batch_size": 64,
                "minibatches": 8,
                "shuffle": "steps",
                "gamma": 0.98,
                "normalize_returns": True,
            },
        }
    )


def train(*, num_cogs: int = 4, mission: str = "easy_hearts_small") -> Run:
    """A run of this recipe, to be changed and started; for the arguments see `settings`."""
    return Run(settings(num_cogs=num_cogs, mission=mission), recipe=RECIPE.name)


RECIPE = Recipe(
    "cogs_v_clips",
    "Cogs versus clips (needs oatmill[cogs]): a team makes hearts; env.mission=easy_hearts_small or easy_hearts",
    settings,
)
