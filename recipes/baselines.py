"""What a policy that acts at random gets, to compare a run's return with."""

from __future__ import annotations

from actors.settings import CogsEnv, EnvSettings, GymnasiumEnv

GYMNASIUM = {"CartPole-v1": 22.0, "LunarLander-v3": -180.0}
COGS = {("easy_hearts_small", 4): 1.42}
"""By mission and agents, with the mission's own steps."""


def random_return(env: EnvSettings) -> float | None:
    """The mean episode return of the random policy, where it was measured; None for other environments."""
    if isinstance(env, GymnasiumEnv) and not env.kwargs:
        return GYMNASIUM.get(env.id)
    if isinstance(env, CogsEnv) and env.max_steps is None:
        return COGS.get((env.mission, env.num_cogs))
    return None
