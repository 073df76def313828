"""Steppers: they step several copies of a Gymnasium environment, all with the same interface.

A stepper uses the environment's own format of observations and actions;
`actors.environments.adapters.gymnasium` converts them. Gymnasium's vectorised classes reset episodes in
different ways (`AutoresetMode`). There is one stepper per mode, one for copies that are stepped one
by one, and one for the built-in CartPole, whose class needs an additional step for each reset.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AutoresetMode

from actors.environments.boundary import (
    STEP_VALUES,
    Raw,
    VectorBoundary,
    copy_seeds,
    flag,
    info_of,
    observation_of,
    outcome_of,
    reward,
    vector_seed,
)
from actors.environments.infos import row_of
from actors.environments.spaces.action_masks import InfoMasks
from oatmill.errors import UserError
from protocol.data.actions import copied, split_rows
from protocol.data.observations import Observations
from protocol.data.spaces import ACTION_MASK
from protocol.data.trajectory import Array

NO_ROWS = np.zeros(0, np.int64)


NO_INFOS: Mapping[int, Mapping[str, Any]] = {}


class RawStep(NamedTuple):
    """The result of one step of N copies, in the environment's format; fields as in `base.Step`.

    `infos` has the last `info` of each row whose episode ended.
    """

    observations: Observations
    rewards: Array
    terminated: Array
    truncated: Array
    valid: Array
    final_observations: Observations
    final_rows: Array
    infos: Mapping[int, Mapping[str, Any]] = NO_INFOS


class Stepper(Protocol):
    """N copies, stepped together.

    Attributes:
        num_copies: N.
        masks: what `info` allows the copies to do next, bool `[N, A]`; None if it says nothing of it.
    """

    num_copies: int

    @property
    def masks(self) -> Array | None:
        """The allowed choices according to `info`, bool `[N, A]`; None without masks."""
        ...

    def reset(self) -> Observations:
        """Start all episodes; returns the observations."""
        ...

    def step(self, actions: Any) -> RawStep:
        """Take one action per copy, in the environment's format."""
        ...

    def first_info(self, actions: Any) -> Mapping[str, Any]:
        """Reset, and return the first copy's `info` of a step. A reset has to follow."""
        ...

    def close(self) -> None:
        """Release all resources."""
        ...


def make_vector_stepper(env: Any, raw: Raw, seed: int, name: str, infos: InfoMasks | None = None) -> Stepper:
    """Create the stepper for a vectorised environment's `AutoresetMode`.

    Args:
        env: the VectorEnv.
        raw: the format of one copy's observation.
        seed: the seed of all copies.
        name: the environment's name for messages.
        infos: reads the action masks in `info`; None ignores them.

    Raises:
        UserError: if the class does not declare its mode.
    """
    if type(env.unwrapped) is CartPoleVectorEnv and env is env.unwrapped:
        return CartPoleStepper(env, seed)
    mode = (env.metadata or {}).get("autoreset_mode")
    steppers: dict[Any, Callable[[VectorBoundary], Stepper]] = {
        AutoresetMode.SAME_STEP: SameStepStepper,
        AutoresetMode.NEXT_STEP: NextStepStepper,
        AutoresetMode.DISABLED: ManualResetStepper,
    }
    if mode not in steppers:
        raise UserError(
            f'{name}: expected the VectorEnv to have an AutoresetMode in metadata["autoreset_mode"], got {mode!r}; '
            f"set it to the mode that the class implements"
        )
    return steppers[mode](VectorBoundary(env, raw, seed, infos))


class SyncStepper:
    """Steps copies one by one.

    Args:
        envs: the copies; each is a Gymnasium `Env`.
        raw: the format of one observation.
        seed: the seed of all copies.
        infos: reads the action masks in `info`; None ignores them.
    """

    def __init__(self, envs: Sequence[Any], raw: Raw, seed: int, infos: InfoMasks | None = None) -> None:
        self.num_copies = len(envs)
        self._envs = envs
        self._seeds = copy_seeds(seed, len(envs))
        self._raw = raw
        self._infos = infos
        self._observations, self._no_finals = raw.empty(len(envs)), raw.empty(0)
        self._rewards = np.zeros(len(envs), np.float32)
        self._terminated = np.zeros(len(envs), np.bool_)
        self._truncated = np.zeros(len(envs), np.bool_)
        self._valid = np.ones(len(envs), np.bool_)

    @property
    def masks(self) -> Array | None:
        """What `info` allows the copies to do next."""
        return self._infos.masks if self._infos is not None else None

    def reset(self) -> Observations:
        """Seed and reset every copy."""
        for row, (env, seed) in enumerate(zip(self._envs, self._seeds, strict=True)):
            self._begin(row, env.reset(seed=seed))
        self._raw.check_limits(self._observations)
        return self._observations

    def step(self, actions: Any) -> RawStep:
        """Step every copy, and reset those whose episode ended."""
        finals, final_rows, infos = [], [], {}
        store, observations = self._raw.store, self._observations
        choices = split_rows(copied(actions), self.num_copies)
        for row, env in enumerate(self._envs):
            outcome = env.step(choices[row])
            if type(outcome) is not tuple or len(outcome) != STEP_VALUES:  # avoids a call in the usual case, as below
                outcome = outcome_of(outcome)
            observation, gained, terminated, truncated, info = outcome
            store(observation, observations, row)
            self._rewards[row] = gained if type(gained) is float else reward(gained)
            self._terminated[row] = over = terminated if type(terminated) is bool else flag(terminated, "terminated")
            self._truncated[row] = cut = truncated if type(truncated) is bool else flag(truncated, "truncated")
            if over or cut:
                infos[row] = info_of(info)
                if not over:
                    finals.append(observations[row].copy())
                    final_rows.append(row)
                self._begin(row, env.reset())
            elif self._infos is not None and (self._infos.given or (info and ACTION_MASK in info_of(info))):
                self._infos.take(info_of(info), row)
        self._raw.check_limits(observations)
        return RawStep(
            observations,
            self._rewards,
            self._terminated,
            self._truncated,
            self._valid,
            self._stacked(finals),
            np.array(final_rows, np.int64),
            infos,
        )

    def first_info(self, actions: Any) -> Mapping[str, Any]:
        """Reset and step the first copy; its `info`."""
        self._envs[0].reset(seed=self._seeds[0])
        return info_of(outcome_of(self._envs[0].step(split_rows(copied(actions), self.num_copies)[0]))[4])

    def close(self) -> None:
        """Close every copy."""
        for env in self._envs:
            env.close()

    def _begin(self, row: int, outcome: Any) -> None:
        """Take in what a reset gave."""
        self._raw.store(observation_of(outcome), self._observations, row)
        if self._infos is not None:
            self._infos.take(outcome[1], row)

    def _stacked(self, finals: list[Observations]) -> Observations:
        if not finals:
            return self._no_finals
        stacked = self._raw.empty(len(finals))
        for place, final in enumerate(finals):
            stacked[place] = final
        self._raw.check_limits(stacked, "final observations")
        return stacked


class _Vectorised:
    """Base class of the steppers of vectorised environments."""

    def __init__(self, boundary: VectorBoundary) -> None:
        self.num_copies = boundary.num_copies
        self._env = boundary
        self._valid = np.ones(self.num_copies, np.bool_)

    @property
    def masks(self) -> Array | None:
        """What `info` allows the copies to do next."""
        return self._env.masks

    def reset(self) -> Observations:
        """Seed and reset all copies."""
        return self._env.reset()

    def first_info(self, actions: Any) -> Mapping[str, Any]:
        """Reset and step all copies; the first one's `info`."""
        self._env.reset()
        return row_of(self._env.step(actions).infos, 0)

    def close(self) -> None:
        """Close all copies."""
        self._env.close()


class SameStepStepper(_Vectorised):
    """A vectorised environment that resets in the step that ends an episode."""

    def step(self, actions: Any) -> RawStep:
        """Step all copies; final observations are read from `infos["final_obs"]`."""
        taken = self._env.step(actions)
        self._env.take_masks(taken.infos, self._valid)
        rows = np.flatnonzero(taken.truncated & ~taken.terminated)
        finals = self._env.final_observations(taken.infos, rows) if rows.size else taken.observations[:0]
        return RawStep(*taken[:4], self._valid, finals, rows, last_infos(taken.infos, taken.terminated | taken.truncated))


class ManualResetStepper(_Vectorised):
    """A vectorised environment whose copies are reset by the caller."""

    def step(self, actions: Any) -> RawStep:
        """Step all copies, and reset those whose episode ended."""
        taken = self._env.step(actions)
        rows = np.flatnonzero(taken.truncated & ~taken.terminated)
        finals = taken.observations[rows]
        ended = taken.terminated | taken.truncated
        self._env.take_masks(taken.infos, ~ended)
        if ended.any():
            taken.observations[ended] = self._env.reset_rows(ended)
        return RawStep(*taken[:4], self._valid, finals, rows, last_infos(taken.infos, ended))


class NextStepStepper(_Vectorised):
    """A vectorised environment that needs an additional step for each reset.

    In that step no action is taken, so the row is absent: not valid, and marked as ended.
    """

    def __init__(self, boundary: VectorBoundary) -> None:
        super().__init__(boundary)
        self._resetting = np.zeros(self.num_copies, np.bool_)

    def reset(self) -> Observations:
        """Seed and reset all copies."""
        self._resetting = np.zeros(self.num_copies, np.bool_)
        return super().reset()

    def step(self, actions: Any) -> RawStep:
        """Step all copies; those whose episode ended in the last step are only reset."""
        observations, rewards, terminated, truncated, infos = self._env.step(actions)
        absent = self._resetting
        self._resetting = (terminated | truncated) & ~absent
        rows = np.flatnonzero(truncated & ~terminated & ~absent)
        self._env.take_masks(infos, ~self._resetting)
        rewards[absent] = 0
        if isinstance(observations, dict) and ACTION_MASK in observations:
            observations[ACTION_MASK][self._resetting] = 1  # at an end nothing may be allowed, and nothing is done in the reset
        return RawStep(
            observations,
            rewards,
            terminated | absent,
            truncated & ~absent,
            ~absent,
            observations[rows],
            rows,
            last_infos(infos, self._resetting),
        )


def last_infos(infos: Mapping[str, Any], ended: Array) -> Mapping[int, Mapping[str, Any]]:
    """Each ended row's own `info`, out of a VectorEnv's."""
    return {row: row_of(infos, row) for row in np.flatnonzero(ended).tolist()} if infos and ended.any() else NO_INFOS


class CartPoleStepper:
    """Gymnasium's vectorised CartPole without the additional step for a reset.

    The class resets the copies that `prev_done` marks at its next step. Here they are reset
    immediately, with the same random numbers, and the marks are cleared. The class returns new
    arrays at every step and does not modify its actions, so no data needs to be copied or checked.
    """

    def __init__(self, env: Any, seed: int) -> None:
        self.num_copies = int(env.num_envs)
        self.masks: Array | None = None
        self._env = env
        self._seed = vector_seed(seed, self.num_copies)
        self._valid = np.ones(self.num_copies, np.bool_)

    def reset(self) -> Array:
        """Seed and reset all copies."""
        observations: Array = self._env.reset(seed=self._seed)[0]
        return observations

    def step(self, actions: Any) -> RawStep:
        """Step all copies, and reset those whose episode ended."""
        env = self._env
        observations, rewards, terminated, truncated, _ = env.step(actions)
        ended = np.flatnonzero(env.prev_done)
        if not ended.size:
            return RawStep(observations, rewards, terminated, truncated, self._valid, observations[:0], NO_ROWS)
        rows = np.flatnonzero(truncated & ~terminated)
        finals = observations[rows]
        fresh = env.np_random.uniform(env.low, env.high, (4, ended.size))
        env.state[:, ended] = fresh
        env.steps[ended] = 0
        env.prev_done[:] = False
        observations[ended] = fresh.T
        return RawStep(observations, rewards, terminated, truncated, self._valid, finals, rows)

    def first_info(self, actions: Any) -> Mapping[str, Any]:  # noqa: ARG002 -- the class says nothing in `info`
        """Nothing."""
        return {}

    def close(self) -> None:
        """Close all copies."""
        self._env.close()
