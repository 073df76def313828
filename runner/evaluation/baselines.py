"""Measured returns of the random policy, for comparison."""

from __future__ import annotations

from actors.settings import AtariEnv, CogsEnv, EnvSettings, GymnasiumEnv, MiniGridEnv

GYMNASIUM = {"CartPole-v1": 22.3, "LunarLander-v3": -184.0, "Pendulum-v1": -1242.0}
"""By id, with default arguments; over 5,000, 600 and 600 episodes (standard errors 0.2, 4.5 and 12)."""
COGS = {("easy_hearts_small", 4): 1.42, ("easy_hearts", 4): 0.03}
"""By mission and number of agents, with the mission's own length; return per agent, over 64
episodes."""
MINIGRID = {"MiniGrid-DoorKey-6x6-v0": 0.02}
"""By id, with the environment's own length; over 1,030 episodes (standard error 0.003)."""
ATARI = {"pong": -20.1}
"""By game, with default settings (except for the image's); over 100 episodes (standard error 0.1)."""


def random_return(env: EnvSettings) -> float | None:
    """The measured mean episode return of the random policy; None for environments that were not measured."""
    if isinstance(env, GymnasiumEnv) and not env.kwargs:
        return GYMNASIUM.get(env.id)
    if isinstance(env, CogsEnv) and env.max_steps is None:
        return COGS.get((env.mission, env.num_cogs))
    if isinstance(env, MiniGridEnv) and env.max_steps is None:
        return MINIGRID.get(env.id)
    if isinstance(env, AtariEnv) and env == AtariEnv(game=env.game, screen_size=env.screen_size, stack=env.stack):
        return ATARI.get(env.game)
    return None
