"""Atari games on the Arcade Learning Environment, stepped by its vectorised class.

All copies of an actor are stepped in one call into C++, which also skips, scales, converts to grey and
stacks frames. The class resets in the step that ends an episode and also returns the final observation,
from which a truncated episode's value is estimated. Rewards are those of the game, so that returns are
scores; `trainer.reward_clip` clips them for training.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ale_py import roms
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode

from actors.environments.adapters.gymnasium import GymnasiumEnvironment
from actors.environments.base import name_of
from actors.environments.boundary import RawSpace, VectorBoundary
from actors.environments.spaces.actions import convert_action_space
from actors.environments.spaces.observations import ObservationConversion, raw_space
from actors.environments.steppers import SameStepStepper
from actors.settings import AtariEnv
from oatmill.errors import UserError
from oatmill.settings.complaints import nearest
from protocol.data.spaces import ObservationSpace
from protocol.data.trajectory import Array

THREADS = 1
"""Threads per actor. To use more cores, run more actors."""


class AtariStepper(SameStepStepper):
    """Steps the vectorised class, whose copies get consecutive seeds of signed 32 bits."""

    def __init__(self, env: AtariVectorEnv, seed: int) -> None:
        super().__init__(VectorBoundary(env, raw_space(env.single_observation_space), seed))
        self.action_space = env.single_action_space


def make_atari(settings: AtariEnv, copies: int | None, seed: int) -> GymnasiumEnvironment:
    """Build copies of a game.

    Raises:
        UserError: if there is no such game.
    """
    return around_games(settings, AtariStepper(make_games(settings, copies or 1), seed))


def make_games(settings: AtariEnv, copies: int, **changes: Any) -> AtariVectorEnv:
    """Create the vectorised class.

    Args:
        settings: the game, and how it is observed and played.
        copies: the number of copies.
        changes: constructor arguments that replace those of the settings.

    Raises:
        UserError: if there is no such game.
    """
    games = roms.get_all_rom_ids()
    if settings.game not in games:
        raise UserError(f"{name_of(settings)}: there is no such game; the nearest is {nearest(settings.game, games)}")
    arguments = {
        "num_threads": THREADS,
        "max_num_frames_per_episode": settings.max_frames,
        "repeat_action_probability": settings.repeat_action_probability,
        "full_action_space": settings.full_action_space,
        "img_height": settings.screen_size,
        "img_width": settings.screen_size,
        "stack_num": settings.stack,
        "frameskip": settings.frame_skip,
        "noop_max": settings.noop_max,
        "episodic_life": settings.episodic_life,
        "reward_clipping": False,
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }
    return AtariVectorEnv(settings.game, copies, **(arguments | changes))


def around_games(settings: AtariEnv, stepper: AtariStepper) -> GymnasiumEnvironment:
    """Build an environment around a stepper."""
    name = name_of(settings)
    action = convert_action_space(stepper.action_space, name)
    return GymnasiumEnvironment(name, stepper, stacked_frames(settings), action)


def stacked_frames(settings: AtariEnv) -> ObservationConversion:
    """Frames as channels of one image, the newest last; no conversion is needed."""
    shape = (settings.stack, settings.screen_size, settings.screen_size)
    raw = RawSpace("a stack of grey frames", shape, np.dtype(np.uint8))

    def convert(batch: Array) -> Array:
        return batch

    return ObservationConversion(ObservationSpace("image", shape, "uint8"), raw, convert)
