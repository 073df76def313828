"""Environments from Gymnasium's registry, and a user's own Gymnasium environments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv

from actors.environments.base import Step, name_of
from actors.environments.episodes import EpisodeSums
from actors.environments.infos import has_globs, names_of, read
from actors.environments.spaces.action_masks import InfoMasks, check_allows, check_mask_space, masked_spaces, with_masks
from actors.environments.spaces.actions import ActionConversion, convert_action_space
from actors.environments.spaces.dict_spaces import convert_space
from actors.environments.spaces.minigrid_cells import minigrid_cells
from actors.environments.spaces.observations import Channels, ObservationConversion
from actors.environments.steppers import Stepper, SyncStepper, make_vector_stepper
from actors.environments.user_factories import Factory
from actors.environments.wrappers import wrapped
from actors.settings import FactoryEnv, GymnasiumEnv
from oatmill.errors import UserError
from oatmill.user_modules import import_named
from protocol.data.observations import Observations
from protocol.data.spaces import ACTION_MASK, Spaces
from protocol.data.trajectory import Array

REGISTERED_BY = {"ALE": "ale_py"}
"""The packages that register a namespace only when they are imported."""


class GymnasiumEnvironment:
    """Copies of a Gymnasium environment as rows; see `actors.environments.base.Environment`.

    Args:
        name: the environment's name for messages.
        stepper: steps the copies.
        observation: converts the copies' observations.
        action: converts actions to the copies' format.
        infos: the reader of masks in `info` that `stepper` has.
    """

    def __init__(
        self,
        name: str,
        stepper: Stepper,
        observation: ObservationConversion,
        action: ActionConversion,
        infos: InfoMasks | None = None,
    ) -> None:
        self.name = name
        self.spaces = check_mask_space(Spaces(observation.space, action.space), name)
        self.num_rows = self.num_copies = stepper.num_copies
        self.channels = observation.channels
        self.episode_statistics: tuple[str, ...] = ()
        self._stepper = stepper
        self._infos = infos
        self._convert = observation.convert
        self._convert_actions = action.convert
        self._sums = EpisodeSums(stepper.num_copies)
        self._no_finals: Observations = None  # converted once, because most steps have no final observation

    def hear(self, patterns: Sequence[str]) -> None:
        """Take these numbers of the last `info` of each episode for its statistics.

        Patterns are matched with the `info` of one step of the environment, which is reset afterwards.

        Raises:
            UserError: if they are too many.
        """
        infos: Sequence[Mapping[str, Any]] = ()
        if has_globs(patterns):
            action = self.spaces.action
            infos = [self._stepper.first_info(self._convert_actions(np.zeros((self.num_rows, *action.shape), action.dtype)))]
        self.episode_statistics = names_of(patterns, infos, self.name)

    def reset(self) -> Observations:
        """Start all episodes."""
        self._sums.clear()
        self._no_finals = None
        converted = self._convert(self._stepper.reset())
        if self._infos is not None and ACTION_MASK in (converted if isinstance(converted, dict) else ()):
            self._infos.compare(converted[ACTION_MASK])
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
            self._sums.end(ended, lambda row: read(self.episode_statistics, raw.infos.get(row, {}))) if ended.any() else (),
        )

    def _shown(self, observations: Observations) -> Observations:
        """Observations with the masks out of `info`."""
        shown = with_masks(observations, self._stepper.masks)
        check_allows(shown, self.spaces.action.sizes)
        return shown

    def _final(self, observations: Observations, rows: int) -> Observations:
        """Final observations; nobody acts on them, so a mask out of `info` allows everything."""
        if not rows and self._no_finals is not None:
            return self._no_finals
        finals = self._convert(observations)
        if self._stepper.masks is not None:
            finals = with_masks(finals, np.ones((rows, self.spaces.action.num_logits), np.bool_))
        if not rows:
            self._no_finals = finals
        return finals

    def close(self) -> None:
        """Close all copies."""
        self._stepper.close()


def make_registered(settings: GymnasiumEnv, copies: int | None, seed: int) -> GymnasiumEnvironment:
    """Build copies of a registered environment.

    Raises:
        UserError: if oatmill does not support the environment's spaces.
        ModuleNotFoundError, DependencyNotInstalled: if the environment needs a package that is not installed.
    """
    name = name_of(settings)
    import_registering(settings.id)
    if has_vector_class(settings):
        env = gymnasium.make_vec(settings.id, copies or 1, "vector_entry_point", **settings.kwargs)
        return around_vector_env(env, seed, name, settings.channels)
    # Gymnasium's checker is not needed: VectorBoundary and RawSpace check every step.
    make = partial(gymnasium.make, settings.id, disable_env_checker=True, **settings.kwargs)
    envs = [wrapped(make(), settings.wrappers) for _ in range(copies or 1)]
    return around_envs(envs, seed, name, settings.channels)


def make_from_factory(settings: FactoryEnv, copies: int | None, seed: int, *, first_index: int = 0) -> GymnasiumEnvironment:
    """Build copies of the environment that a user's function returns.

    A function with a parameter `num_envs` is called once and must return a VectorEnv with that many
    copies. Any other function is called once per copy and returns an Env, or once and returns a
    VectorEnv, which must have the requested number of copies. If the function has parameters `seed`
    and `index`, each call gets its own values.

    Args:
        settings: the function and its keyword arguments.
        copies: the number of copies; None uses that of a VectorEnv, or one.
        seed: the seed of all copies.
        first_index: the `index` of the first copy.

    Raises:
        UserError: if the function returns something else, or oatmill does not support its spaces.
    """
    name = name_of(settings)
    factory = Factory(settings.factory, settings.kwargs, copies=copies or 1, seed=seed, first_index=first_index)
    first = factory.make()
    match first:
        case VectorEnv():
            if settings.wrappers:
                raise UserError(
                    f"{name}: env.wrappers wraps single copies, but the function returns a VectorEnv, got "
                    f"{type(first).__name__}; wrap it in the function, or return an Env"
                )
            if copies is not None and first.num_envs != copies:
                raise UserError(
                    f"{name}: expected a VectorEnv of {copies} copies, as actors.envs_per_actor says, got {first.num_envs}; "
                    f"give the function a parameter num_envs, or set actors.envs_per_actor={first.num_envs}"
                )
            return around_vector_env(first, seed, name, settings.channels)
        case gymnasium.Env():
            envs = [first, *(factory.make(copy) for copy in range(1, copies or 1))]
            if any(env is first for env in envs[1:]):
                raise UserError(
                    f"{name}: expected a new environment at each call, got the same one twice; build it in the function"
                )
            return around_envs([wrapped(env, settings.wrappers) for env in envs], seed, name, settings.channels)
        case _:
            raise UserError(
                f"{name}: expected the function to return a gymnasium.Env or a gymnasium.vector.VectorEnv, got "
                f"{type(first).__name__}; a PettingZoo environment takes env.kind=pettingzoo"
            )


def has_vector_class(settings: GymnasiumEnv) -> bool:
    """Whether the environment's own vectorised class is used."""
    if settings.vectorization != "auto" or settings.wrappers:
        return settings.vectorization == "vector_entry_point"
    import_registering(settings.id)
    try:
        return gymnasium.spec(settings.id.rpartition(":")[2]).vector_entry_point is not None
    except gymnasium.error.Error:
        return False  # make() finds the newest version, or raises an error about the name


def import_registering(env_id: str) -> None:
    """Import what registers an id: the module of `maze:Maze-v0`, or the package of a namespace such as that of `ALE/Pong-v5`.

    Unlike Gymnasium, this also finds modules in the current folder.

    Raises:
        UserError: if the module cannot be imported.
        ModuleNotFoundError: if the package is not installed.
    """
    module, _, name = env_id.rpartition(":")
    if module:
        import_named(module, what=f"env.id={env_id}")
    elif (namespace := name.partition("/")[0]) in REGISTERED_BY:
        import_module(REGISTERED_BY[namespace])


def around_vector_env(env: Any, seed: int, name: str, channels: Channels) -> GymnasiumEnvironment:
    """Step all copies of a VectorEnv in one call.

    Raises:
        UserError: if oatmill does not support its spaces, or it does not declare its `AutoresetMode`.
    """
    observation = convert_space(env.single_observation_space, name, channels)
    action = convert_action_space(env.single_action_space, name)
    infos = info_masks(observation, action, int(env.num_envs), name, env)
    return GymnasiumEnvironment(name, make_vector_stepper(env, observation.raw, seed, name, infos), observation, action, infos)


def around_envs(envs: list[Any], seed: int, name: str, channels: Channels = "auto") -> GymnasiumEnvironment:
    """Build an environment that steps copies one by one.

    Raises:
        UserError: if oatmill does not support their spaces.
    """
    observation = convert_space(envs[0].observation_space, name, channels, minigrid_cells(envs[0]))
    action = convert_action_space(envs[0].action_space, name)
    infos = info_masks(observation, action, len(envs), name, envs[0])
    return GymnasiumEnvironment(name, SyncStepper(envs, observation.raw, seed, infos), observation, action, infos)


def info_masks(observation: ObservationConversion, action: ActionConversion, copies: int, name: str, env: Any) -> InfoMasks:
    """A reader of masks in `info`. Where the observation has one, that counts."""
    return InfoMasks(action.space, copies, name, env, beside=Spaces(observation.space, action.space).masked)
