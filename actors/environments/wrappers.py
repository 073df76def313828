"""The wrappers of `env.wrappers`: Gymnasium's own by short names, with the usual arguments as defaults, and the user's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium import wrappers as gym_wrappers

from actors.environments.user_factories import load_environment_function
from oatmill.errors import OatmillError, UserError, one_line

IMAGE_AXES = 3


def wrapped(env: Any, entries: Sequence[str | Mapping[str, Any]]) -> Any:
    """An environment in its wrappers.

    Args:
        env: a Gymnasium `Env`.
        entries: as `env.wrappers` has them, the innermost first.

    Raises:
        UserError: if a wrapper does not take these arguments, refuses the environment, or is no wrapper.
        ModuleNotFoundError: if it needs a package that is not installed.
    """
    for entry in entries:
        arguments = {} if isinstance(entry, str) else dict(entry)
        name = entry if isinstance(entry, str) else str(arguments.pop("name"))
        env = _wrap(env, name, arguments)
    return env


def _wrap(env: Any, name: str, arguments: Mapping[str, Any]) -> Any:
    wrapper = WRAPPERS[name] if name in WRAPPERS else load_environment_function(name, what="env.wrappers")
    try:
        outer = wrapper(env, **arguments)
    except (OatmillError, ImportError, gymnasium.error.DependencyNotInstalled):
        raise
    except Exception as error:
        raise UserError(f"env.wrappers: {name} cannot be put around {env}: {one_line(error)}") from error
    if not isinstance(outer, gymnasium.Env):
        raise UserError(f"env.wrappers: expected {name} to return a gymnasium.Env, got {type(outer).__name__}")
    return outer


def frame_stack(env: Any, stack_size: int = 4) -> Any:
    """The newest frames in one observation.

    Grey images become `[frames, H, W]`, images with channels `[H, W, C * frames]` (or `[C * frames, H, W]` where the first axis
    is the smaller one), and vectors one longer vector; the newest comes last.
    """
    shape = env.observation_space.shape
    stacked = gym_wrappers.FrameStackObservation(env, stack_size)
    if shape is None or len(shape) not in (1, IMAGE_AXES):
        return stacked
    last = len(shape) == 1 or shape[-1] <= shape[0]

    def join(frames: Any) -> Any:
        return np.concatenate(list(frames), axis=-1 if last else 0)

    inner = env.observation_space
    space = spaces.Box(join([inner.low] * stack_size), join([inner.high] * stack_size), dtype=inner.dtype)
    return gym_wrappers.TransformObservation(stacked, join, space)


def repeat_action(env: Any, num_repeats: int = 4) -> Any:
    """Each action is taken several times; rewards are added, and the last observation is returned."""
    if not hasattr(gym_wrappers, "RepeatAction"):
        raise UserError(f"env.wrappers: repeat_action needs gymnasium 1.3 or newer, got {gymnasium.__version__}")
    return gym_wrappers.RepeatAction(env, num_repeats)


def resize(env: Any, shape: Sequence[int] = (84, 84)) -> Any:
    """Images of another height and width."""
    return gym_wrappers.ResizeObservation(env, tuple(shape))


def reward_clip(env: Any, min_reward: float = -1.0, max_reward: float = 1.0) -> Any:
    """Rewards within bounds. Returns are then sums of clipped rewards; `trainer.reward_clip` leaves the returns alone."""
    return gym_wrappers.ClipReward(env, min_reward, max_reward)


def sticky_actions(env: Any, repeat_action_probability: float = 0.25) -> Any:
    """The previous action is sometimes repeated (Machado et al. 2018)."""
    return gym_wrappers.StickyAction(env, repeat_action_probability)


WRAPPERS: Mapping[str, Callable[..., Any]] = {
    "frame_stack": frame_stack,
    "grey": gym_wrappers.GrayscaleObservation,
    "max_and_skip": gym_wrappers.MaxAndSkipObservation,
    "record_statistics": gym_wrappers.RecordEpisodeStatistics,
    "repeat_action": repeat_action,
    "resize": resize,
    "reward_clip": reward_clip,
    "sticky_actions": sticky_actions,
    "time_limit": gym_wrappers.TimeLimit,
}
"""By the names of `actors.settings.WRAPPERS`."""
