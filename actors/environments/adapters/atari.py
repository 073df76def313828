"""Atari games on the Arcade Learning Environment, stepped by its vectorised class.

All copies of an actor are stepped in one call into C++, where frames are skipped, scaled, made grey and stacked too. The class
resets in the step that ends an episode and hands the final observations out beside the first ones of the next episode, which is
what a truncated episode's value is estimated from. Rewards are the game's own, so that returns are scores; they are cut for
training by `trainer.reward_clip`.
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
from actors.environments.gymnasium_actions import convert_action_space
from actors.environments.gymnasium_spaces import ObservationConversion, raw_space
from actors.environments.steppers import SameStepStepper
from actors.settings import AtariEnv
from oatmill.errors import UserError
from oatmill.settings.complaints import nearest
from protocol.data.spaces import ObservationSpace
from protocol.data.trajectory import Array

THREADS = 1
"""Of one actor: more actors are how more cores are used."""


class AtariStepper(SameStepStepper):
    """The vectorised class; its seeds are signed 32-bit numbers, and its copies take consecutive ones."""

    def __init__(self, env: AtariVectorEnv, seed: int) -> None:
        super().__init__(VectorBoundary(env, raw_space(env.single_observation_space), seed))
        self.action_space = env.single_action_space


def make_atari(settings: AtariEnv, copies: int | None, seed: int) -> GymnasiumEnvironment:
    """Build copies of a game.

    Args:
        settings: which one, and how it is seen and played.
        copies: how many; None for one.
        seed: the root of their random numbers.

    Raises:
        UserError: if there is no such game.
    """
    return around_games(settings, AtariStepper(make_games(settings, copies or 1), seed))


def make_games(settings: AtariEnv, copies: int, **changes: Any) -> AtariVectorEnv:
    """The vectorised class for the settings.

    Args:
        settings: which game, and how it is seen and played.
        copies: how many.
        changes: arguments of the class that are to differ.

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
    """Rows of what a stepper steps."""
    name = name_of(settings)
    action = convert_action_space(stepper.action_space, name)
    return GymnasiumEnvironment(name, stepper, stacked_frames(settings), action)


def stacked_frames(settings: AtariEnv) -> ObservationConversion:
    """Frames as the channels of one image, the newest last; they come so."""
    shape = (settings.stack, settings.screen_size, settings.screen_size)
    raw = RawSpace("a stack of grey frames", shape, np.dtype(np.uint8))

    def convert(batch: Array) -> Array:
        return batch

    return ObservationConversion(ObservationSpace("image", shape, "uint8"), raw, convert)
