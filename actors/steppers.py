"""Ways to step several copies of a Gymnasium environment, all with the same conventions.

A stepper works with the environment's own observations and actions; `actors.gymnasium` converts them. Gymnasium's vectorised
classes differ in what they do after an episode's end (`AutoresetMode`): one stepper a mode, one for copies stepped one by one,
and one for the built-in CartPole, whose class spends an extra step on each reset.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AutoresetMode

from actors.gymnasium_spaces import ObservationConversion
from protocol.errors import UserError
from protocol.trajectory import Array

NO_ROWS = np.zeros(0, np.int64)


class RawStep(NamedTuple):
    """One step of N copies, in the environment's own observations; the conventions are those of `environment.Step`."""

    observations: Array
    rewards: Array
    terminated: Array
    truncated: Array
    valid: Array
    final_observations: Array
    final_rows: Array


class Stepper(Protocol):
    """N copies, stepped together."""

    num_copies: int

    def reset(self) -> Array:
        """Start all episodes; the observations."""
        ...

    def step(self, actions: Array) -> RawStep:
        """Take one action a copy, as the environment counts them."""
        ...

    def close(self) -> None:
        """Release what the copies hold."""
        ...


def copy_seeds(seed: int, copies: int) -> list[int]:
    """Seeds of 32 bits, one a copy: different for neighbouring roots, so that no two actors run the same episodes."""
    return [int(value) for value in np.random.SeedSequence(seed).generate_state(copies)]


def make_vector_stepper(env: Any, seed: int, name: str) -> Stepper:
    """The stepper for a vectorised environment's own way to reset.

    Raises:
        UserError: if the class does not say what that is.
    """
    if type(env.unwrapped) is CartPoleVectorEnv and env is env.unwrapped:
        return CartPoleStepper(env, seed)
    mode = env.metadata.get("autoreset_mode")
    if mode == AutoresetMode.SAME_STEP:
        return SameStepStepper(env, seed)
    if mode == AutoresetMode.NEXT_STEP:
        return NextStepStepper(env, seed)
    if mode == AutoresetMode.DISABLED:
        return ManualResetStepper(env, seed)
    raise UserError(
        f'{name}: expected the VectorEnv to have an AutoresetMode in metadata["autoreset_mode"], got {mode!r}; '
        f"set it to what the class does after an episode's end"
    )


class SyncStepper:
    """Copies stepped one by one.

    Args:
        envs: the copies; each a Gymnasium `Env` of its own.
        conversion: says what one observation looks like.
        seed: the root of the copies' seeds.
    """

    def __init__(self, envs: Sequence[Any], conversion: ObservationConversion, seed: int) -> None:
        self.num_copies = len(envs)
        self._envs = envs
        self._seeds = copy_seeds(seed, len(envs))
        self._shape = conversion.raw_shape
        self._observations = np.zeros((len(envs), *conversion.raw_shape), conversion.raw_dtype)
        self._rewards = np.zeros(len(envs), np.float32)
        self._terminated = np.zeros(len(envs), np.bool_)
        self._truncated = np.zeros(len(envs), np.bool_)
        self._valid = np.ones(len(envs), np.bool_)

    def reset(self) -> Array:
        """Seed and reset every copy."""
        for row, (env, seed) in enumerate(zip(self._envs, self._seeds, strict=True)):
            observation, _ = env.reset(seed=seed)
            self._store(row, observation)
        return self._observations

    def step(self, actions: Array) -> RawStep:
        """Step every copy, and reset those whose episode ended."""
        finals, final_rows = [], []
        choices = actions.tolist() if actions.ndim == 1 else actions
        for row, env in enumerate(self._envs):
            observation, reward, terminated, truncated, _ = env.step(choices[row])
            self._rewards[row] = reward
            self._terminated[row] = terminated
            self._truncated[row] = truncated
            if terminated or truncated:
                if not terminated:
                    finals.append(np.array(observation, self._observations.dtype))
                    final_rows.append(row)
                observation, _ = env.reset()
            self._store(row, observation)
        return RawStep(
            self._observations,
            self._rewards,
            self._terminated,
            self._truncated,
            self._valid,
            np.stack(finals) if finals else self._observations[:0],
            np.array(final_rows, np.int64),
        )

    def close(self) -> None:
        """Close every copy."""
        for env in self._envs:
            env.close()

    def _store(self, row: int, observation: Any) -> None:
        # Assignment alone would spread a scalar or a shorter row over the whole observation.
        if np.shape(observation) != self._shape:
            raise ValueError(f"expected an observation of shape {self._shape}, got {np.shape(observation)}")
        self._observations[row] = observation


class SameStepStepper:
    """A vectorised environment that resets in the step that ends an episode."""

    def __init__(self, env: Any, seed: int) -> None:
        self.num_copies = int(env.num_envs)
        self._env = env
        self._seed = copy_seeds(seed, 1)[0]
        self._valid = np.ones(self.num_copies, np.bool_)

    def reset(self) -> Array:
        """Seed and reset all copies."""
        return np.asarray(self._env.reset(seed=self._seed)[0])

    def step(self, actions: Array) -> RawStep:
        """Step; final observations come from `infos["final_obs"]`."""
        observations, rewards, terminated, truncated, infos = self._env.step(actions)
        observations = np.asarray(observations)
        rows = np.flatnonzero(truncated & ~terminated)
        finals = observations[:0]
        if rows.size:
            if "final_obs" not in infos:
                raise ValueError('expected infos["final_obs"] in a step that truncates, as AutoresetMode.SAME_STEP promises')
            finals = np.stack([np.asarray(infos["final_obs"][row]) for row in rows])
        return RawStep(observations, rewards, terminated, truncated, self._valid, finals, rows)

    def close(self) -> None:
        """Close all copies."""
        self._env.close()


class ManualResetStepper:
    """A vectorised environment that is reset copy by copy by whoever steps it."""

    def __init__(self, env: Any, seed: int) -> None:
        self.num_copies = int(env.num_envs)
        self._env = env
        self._seed = copy_seeds(seed, 1)[0]
        self._valid = np.ones(self.num_copies, np.bool_)

    def reset(self) -> Array:
        """Seed and reset all copies."""
        return np.asarray(self._env.reset(seed=self._seed)[0])

    def step(self, actions: Array) -> RawStep:
        """Step, then reset the copies whose episode ended."""
        observations, rewards, terminated, truncated, _ = self._env.step(actions)
        observations = np.asarray(observations)
        rows = np.flatnonzero(truncated & ~terminated)
        finals = observations[rows]
        ended = terminated | truncated
        if ended.any():
            observations = np.asarray(self._env.reset(options={"reset_mask": ended})[0])
        return RawStep(observations, rewards, terminated, truncated, self._valid, finals, rows)

    def close(self) -> None:
        """Close all copies."""
        self._env.close()


class NextStepStepper:
    """A vectorised environment that spends a step of its own on each reset.

    Nobody acts in that step, so its row is absent: not valid, and marked as ended.
    """

    def __init__(self, env: Any, seed: int) -> None:
        self.num_copies = int(env.num_envs)
        self._env = env
        self._seed = copy_seeds(seed, 1)[0]
        self._resetting = np.zeros(self.num_copies, np.bool_)

    def reset(self) -> Array:
        """Seed and reset all copies."""
        self._resetting = np.zeros(self.num_copies, np.bool_)
        return np.asarray(self._env.reset(seed=self._seed)[0])

    def step(self, actions: Array) -> RawStep:
        """Step; the copies that ended in the step before only reset."""
        observations, rewards, terminated, truncated, _ = self._env.step(actions)
        observations = np.asarray(observations)
        absent = self._resetting
        self._resetting = (terminated | truncated) & ~absent
        rows = np.flatnonzero(truncated & ~terminated & ~absent)
        return RawStep(
            observations,
            np.where(absent, 0, rewards),
            terminated | absent,
            truncated & ~absent,
            ~absent,
            observations[rows],
            rows,
        )

    def close(self) -> None:
        """Close all copies."""
        self._env.close()


class CartPoleStepper:
    """Gymnasium's vectorised CartPole without the extra step that it spends on a reset.

    The class resets, at its next step, whatever `prev_done` marks. Here the marked copies are reset at once, by the same
    draw from the same generator, and the marks are taken back.
    """

    def __init__(self, env: Any, seed: int) -> None:
        self.num_copies = int(env.num_envs)
        self._env = env
        self._seed = copy_seeds(seed, 1)[0]
        self._valid = np.ones(self.num_copies, np.bool_)

    def reset(self) -> Array:
        """Seed and reset all copies."""
        observations: Array = self._env.reset(seed=self._seed)[0]
        return observations

    def step(self, actions: Array) -> RawStep:
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

    def close(self) -> None:
        """Close all copies."""
        self._env.close()
