"""Environments from Gymnasium's registry, and a user's own Gymnasium environments."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv

from actors.environments.action_masks import InfoMasks, check_allows, check_mask_space, masked_spaces, with_masks
from actors.environments.base import Step, name_of
from actors.environments.dict_spaces import convert_space
from actors.environments.episodes import EpisodeSums
from actors.environments.gymnasium_actions import ActionConversion, convert_action_space
from actors.environments.gymnasium_spaces import Channels, ObservationConversion
from actors.environments.minigrid_cells import minigrid_cells
from actors.environments.steppers import Stepper, SyncStepper, make_vector_stepper
from actors.settings import FactoryEnv, GymnasiumEnv
from oatmill.errors import UserError
from oatmill.user_modules import import_named, load_function
from protocol.data.observations import Observations
from protocol.data.spaces import Spaces
from protocol.data.trajectory import Array


class GymnasiumEnvironment:
    """Copies of a Gymnasium environment as rows; see `actors.environments.base.Environment`.

    Args:
        name: the environment's name for messages.
        stepper: steps the copies.
        observation: converts the copies' observations.
        action: converts actions to the copies' format.
    """

    episode_statistics: tuple[str, ...] = ()

    def __init__(self, name: str, stepper: Stepper, observation: ObservationConversion, action: ActionConversion) -> None:
        self.name = name
        self.spaces = check_mask_space(Spaces(observation.space, action.space), name)
        self.num_rows = self.num_copies = stepper.num_copies
        self.channels = observation.channels
        self._stepper = stepper
        self._convert = observation.convert
        self._convert_actions = action.convert
        self._sums = EpisodeSums(stepper.num_copies)

    def reset(self) -> Observations:
        """Start all episodes."""
        self._sums.clear()
        converted = self._convert(self._stepper.reset())
        if self._stepper.masks is not None and not self.spaces.masked:
            self.spaces = masked_spaces(self.spaces)
        return self._shown(converted)

    def step(self, actions: Array) -> Step:
        """Take one action per copy."""
        raw = self._stepper.step(self._convert_actions(actions))
        self._sums.add(raw.rewards, raw.valid)
        ended = (raw.terminated | raw.truncated) & raw.valid
        return Step(
            self._shown(self._convert(raw.observations)),
            raw.rewards,
            raw.terminated,
            raw.truncated,
            raw.valid,
            self._final(raw.final_observations, len(raw.final_rows)),
            raw.final_rows,
            self._sums.end(ended) if ended.any() else (),
        )

    def _shown(self, observations: Observations) -> Observations:
        """Observations with the masks out of `info`."""
        shown = with_masks(observations, self._stepper.masks)
        check_allows(shown, self.spaces.action.sizes)
        return shown

    def _final(self, observations: Observations, rows: int) -> Observations:
        """Final observations; nobody acts on them, so a mask out of `info` allows everything."""
        converted = self._convert(observations)
        if self._stepper.masks is None:
            return converted
        return with_masks(converted, np.ones((rows, self.spaces.action.num_logits), np.bool_))

    def close(self) -> None:
        """Close all copies."""
        self._stepper.close()


def make_registered(settings: GymnasiumEnv, copies: int | None, seed: int) -> GymnasiumEnvironment:
    """Build copies of a registered environment.

    Args:
        settings: the environment's settings.
        copies: the number of copies; None for one.
        seed: the seed of all copies.

    Raises:
        UserError: if oatmill does not support the environment's spaces.
        ModuleNotFoundError: if the environment needs a package that is not installed.
    """
    name = name_of(settings)
    import_registering(settings.id)
    try:
        if has_vector_class(settings):
            env = gymnasium.make_vec(settings.id, copies or 1, "vector_entry_point", **settings.kwargs)
            return _around_vector_env(env, seed, name, settings.channels)
        # Gymnasium's checker is not needed: VectorBoundary and RawSpace check every step.
        make = partial(gymnasium.make, settings.id, disable_env_checker=True, **settings.kwargs)
        return around_envs([make() for _ in range(copies or 1)], seed, name, settings.channels)
    except gymnasium.error.DependencyNotInstalled as error:
        missing = error.__cause__ or error.__context__
        raise ModuleNotFoundError(str(error), name=getattr(missing, "name", None)) from error


def make_from_factory(settings: FactoryEnv, copies: int | None, seed: int) -> GymnasiumEnvironment:
    """Build copies of the environment that a user's function returns.

    A function with a parameter `num_envs` is called once and must return a VectorEnv with that many
    copies. Any other function is called once per copy and returns an Env, or once and returns a
    VectorEnv, which must have the requested number of copies.

    Args:
        settings: the function and its keyword arguments.
        copies: the number of copies; None uses that of a VectorEnv, or one.
        seed: the seed of all copies.

    Raises:
        UserError: if the function returns something else, or oatmill does not support its spaces.
    """
    name = name_of(settings)
    function = load_function(settings.factory, what="env.factory", gives="an environment")
    make = partial(function, **settings.kwargs)
    if "num_envs" in inspect.signature(function).parameters and "num_envs" not in settings.kwargs:
        make = partial(make, num_envs=copies or 1)
    first = make()
    match first:
        case VectorEnv():
            if copies is not None and first.num_envs != copies:
                raise UserError(
                    f"{name}: expected a VectorEnv of {copies} copies, as actors.envs_per_actor says, got {first.num_envs}; "
                    f"give the function a parameter num_envs, or set actors.envs_per_actor={first.num_envs}"
                )
            return _around_vector_env(first, seed, name, settings.channels)
        case gymnasium.Env():
            envs = [first, *_further(make, first, (copies or 1) - 1, name)]
            return around_envs(envs, seed, name, settings.channels)
        case _:
            raise UserError(
                f"{name}: expected the function to return a gymnasium.Env or a gymnasium.vector.VectorEnv, got "
                f"{type(first).__name__}; a PettingZoo environment takes env.kind=pettingzoo"
            )


def has_vector_class(settings: GymnasiumEnv) -> bool:
    """Whether the environment's own vectorised class is used."""
    if settings.vectorization != "auto":
        return settings.vectorization == "vector_entry_point"
    import_registering(settings.id)
    try:
        return gymnasium.spec(settings.id.rpartition(":")[2]).vector_entry_point is not None
    except gymnasium.error.Error:
        return False  # make() finds the newest version, or raises an error about the name


def import_registering(env_id: str) -> None:
    """Import the module of an id such as `maze:Maze-v0`, which registers the environment.

    Unlike Gymnasium, this also finds modules in the current folder.

    Raises:
        UserError: if the module cannot be imported.
    """
    module = env_id.rpartition(":")[0]
    if module:
        import_named(module, what=f"env.id={env_id}")


def _further(make: Callable[[], Any], first: Any, count: int, name: str) -> list[Any]:
    envs = [make() for _ in range(count)]
    if any(env is first for env in envs):
        raise UserError(f"{name}: expected a new environment at each call, got the same one twice; build it in the function")
    return envs


def _around_vector_env(env: Any, seed: int, name: str, channels: Channels) -> GymnasiumEnvironment:
    observation = convert_space(env.single_observation_space, name, channels)
    action = convert_action_space(env.single_action_space, name)
    infos = info_masks(observation, action, int(env.num_envs))
    return GymnasiumEnvironment(name, make_vector_stepper(env, observation.raw, seed, name, infos), observation, action)


def around_envs(envs: list[Any], seed: int, name: str, channels: Channels = "auto") -> GymnasiumEnvironment:
    """Build an environment that steps copies one by one.

    Raises:
        UserError: if oatmill does not support their spaces.
    """
    observation = convert_space(envs[0].observation_space, name, channels, minigrid_cells(envs[0]))
    action = convert_action_space(envs[0].action_space, name)
    infos = info_masks(observation, action, len(envs))
    return GymnasiumEnvironment(name, SyncStepper(envs, observation.raw, seed, infos), observation, action)


def info_masks(observation: ObservationConversion, action: ActionConversion, copies: int) -> InfoMasks | None:
    """A reader of masks in `info`; None where the observation has one, which counts."""
    return None if Spaces(observation.space, action.space).masked else InfoMasks(action.space, copies)
