"""Checks and copies the data that passes between a user's environment and the actor.

All data is copied, and the environment's outputs are checked before they are cast. So an
environment may modify its actions, reuse its buffers, or return flags as bytes without changing the
recorded data. Ambiguous outputs raise a ValueError that says what was expected and what came.

The checks that convert nothing, such as those for finite numbers, are in `actors.environments.checks`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from protocol.data.actions import copied
from protocol.data.observations import Observations
from protocol.data.trajectory import Array

MAX_SEED = 2**31 - 1
"""The largest seed given to an environment: many simulators use signed 32-bit numbers."""
STEP_VALUES = 5
PLAIN_FLAGS = (bool, np.bool_)
PLAIN_NUMBERS = (float, int, np.float64, np.float32)


class Raw(Protocol):
    """What observations look like as the environment gives them: `RawSpace`, or of several keys `raw_dict.RawDict`."""

    def empty(self, rows: int) -> Observations:
        """Zeros for many observations."""
        ...

    def batch(self, values: Any, rows: int, what: str = "observations") -> Observations:
        """A checked copy of many observations."""
        ...

    def store(self, values: Any, into: Observations, row: int, what: str = "an observation") -> None:
        """Check one observation and write it into a row."""
        ...

    def check_limits(self, rows: Observations, what: str = "observations", first_row: int = 0) -> None:
        """Check rows against the limits of their values."""
        ...


@dataclass(frozen=True)
class RawSpace:
    """The environment's own format of one observation.

    Attributes:
        said: the space in a few words, for messages.
        shape: the shape of one observation.
        dtype: the data type of recorded observations.
        low: the smallest allowed integer of each element; None if only the dtype limits it.
        high: the largest allowed integer of each element; None if only the dtype limits it.
    """

    said: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    low: Array | None = None
    high: Array | None = None

    def empty(self, rows: int) -> Array:
        """Zeros for many observations, `[rows, *shape]`."""
        return np.zeros((rows, *self.shape), self.dtype)

    def batch(self, values: Any, rows: int, what: str = "observations") -> Array:
        """Check and copy a batch of observations.

        Args:
            values: `[rows, *shape]`; an array, a list or a tensor.
            rows: the number of rows.
            what: the name of the values in messages.

        Returns:
            A new array `[rows, *shape]` of `dtype`.

        Raises:
            ValueError: if the shape, the kind of numbers or a value does not match the space.
        """
        array = as_array(values, f"{what} of numbers")
        if array.shape != (rows, *self.shape):
            raise ValueError(f"expected {what} of shape {(rows, *self.shape)}, got {array.shape}")
        copied = self._cast(array, what)
        self.check_limits(copied, what)
        return copied

    def store(self, values: Any, into: Array, row: int, what: str = "an observation") -> None:
        """Check one observation and write it into a row.

        The caller must call `check_limits`, once for all rows.

        Raises:
            ValueError: if the shape or the kind of numbers does not match the space, or a value
                does not fit the dtype.
        """
        if type(values) is np.ndarray and values.dtype is self.dtype and values.shape == self.shape:
            into[row] = values  # the fast path: this runs at every env step
            return
        array = as_array(values, f"{what} of numbers")
        # Without this check, the assignment would broadcast a scalar or a shorter row.
        if array.shape != self.shape:
            raise ValueError(f"expected {what} of shape {self.shape}, got {array.shape}")
        into[row] = array if array.dtype == self.dtype else self._cast(array[None], what, row)[0]

    def check_limits(self, rows: Array, what: str = "observations", first_row: int = 0) -> None:
        """Check rows of `dtype` against `low` and `high`; `first_row` is the number of the first.

        Raises:
            ValueError: if a value is outside; the message names the first one.
        """
        if self.low is not None:
            wrong = (rows < self.low) | (rows > self.high)
            if wrong.any():
                raise self._complaint(rows, wrong, what, first_row)

    def _cast(self, array: Array, what: str, row: int = 0) -> Array:
        if array.dtype != self.dtype and self.dtype.kind != "f":
            wrong = ~self._fits(array)
            if wrong.any():
                raise self._complaint(array, wrong, what, row)
        with np.errstate(over="ignore"):  # overflow gives infinity, which the later check for finite numbers reports
            return array.astype(self.dtype)

    def _fits(self, array: Array) -> Array:
        low, high = _limits(self.dtype)
        fits = (array >= low) & (array <= high)
        return fits & (np.floor(array) == array) if array.dtype.kind == "f" else fits

    def _complaint(self, array: Array, wrong: Array, what: str, row: int = 0) -> ValueError:
        place = tuple(int(number) for number in np.argwhere(wrong)[0])
        low, high = _limits(self.dtype) if self.low is None else (self._at(self.low, place), self._at(self.high, place))
        index = f", index {place[1] if len(place) == 2 else place[1:]}" if len(place) > 1 else ""  # noqa: PLR2004 -- [N, D]
        return ValueError(
            f"expected {what} of whole numbers from {low} to {high}, as {self.said} says, got {array[place].item()} in row "
            f"{place[0] + row}{index}; correct observation_space or the observations"
        )

    def _at(self, limits: Array | None, place: tuple[int, ...]) -> int:
        assert limits is not None
        return int(np.broadcast_to(limits, self.shape)[place[1:]])


class Taken(NamedTuple):
    """The checked and copied result of a vectorised environment's step, in the environment's format."""

    observations: Array  # [N, ...]
    rewards: Array  # [N], float32
    terminated: Array  # [N], bool
    truncated: Array  # [N], bool
    infos: Mapping[str, Any]


class MaskReader(Protocol):
    """Reads action masks out of `info`; see `actors.environments.spaces.action_masks.InfoMasks`."""

    @property
    def masks(self) -> Array | None:
        """What is allowed now."""
        ...

    def take_all(self, infos: Any, rows: Array) -> None:
        """Read the masks of a VectorEnv's copies."""
        ...


class VectorBoundary:
    """Steps a VectorEnv with checks and copies.

    Args:
        env: the VectorEnv.
        raw: the format of one copy's observation.
        seed: the seed of all copies.
        infos: reads the action masks in `info`; None ignores them.
    """

    def __init__(self, env: Any, raw: Raw, seed: int, infos: MaskReader | None = None) -> None:
        self.num_copies = int(env.num_envs)
        self._infos = infos
        self._env = env
        self._raw = raw
        self._seed = vector_seed(seed, self.num_copies)

    @property
    def masks(self) -> Array | None:
        """What `info` allows the copies to do next, bool `[N, A]`; None if it says nothing of it."""
        return self._infos.masks if self._infos is not None else None

    def reset(self) -> Observations:
        """Seed and reset all copies."""
        outcome = self._env.reset(seed=self._seed)
        observations = self._raw.batch(observation_of(outcome), self.num_copies)
        self.take_masks(outcome[1], np.ones(self.num_copies, np.bool_))
        return observations

    def reset_rows(self, rows: Array) -> Observations:
        """Reset the copies of a mask `[N]`; returns their observations `[F, ...]`."""
        outcome = self._env.reset(options={"reset_mask": rows.copy()})
        self.take_masks(outcome[1], rows)
        return self._raw.batch(observation_of(outcome), self.num_copies, "observations of a reset")[rows]

    def step(self, actions: Any) -> Taken:
        """Take one action per copy: an array, or a structure of arrays, with one row per copy."""
        observations, rewards, terminated, truncated, infos = outcome_of(self._env.step(copied(actions)))
        return Taken(
            self._raw.batch(observations, self.num_copies),
            as_rewards(rewards, self.num_copies),
            as_flags(terminated, self.num_copies, "terminated"),
            as_flags(truncated, self.num_copies, "truncated"),
            infos or {},
        )

    def take_masks(self, infos: Any, rows: Array) -> None:
        """Read the action masks of the copies that act next, a mask `[N]`."""
        if self._infos is not None:
            self._infos.take_all(infos, rows)

    def final_observations(self, infos: Mapping[str, Any], rows: Array) -> Observations:
        """The final observations of truncated rows, `[F, ...]`, from `infos["final_obs"]`."""
        finals = infos.get("final_obs", infos.get("final_observation"))  # the second is older Gymnasium's name
        if finals is None:
            raise ValueError('expected infos["final_obs"] in a step that truncates, as AutoresetMode.SAME_STEP promises')
        try:
            count = len(finals)
        except TypeError:
            count = None
        if count != self.num_copies:
            raise ValueError(
                f'expected infos["final_obs"] to have an entry for each of {self.num_copies} copies, got {in_short(finals)}'
            )
        taken = self._raw.empty(len(rows))
        for place, row in enumerate(rows.tolist()):
            self._raw.store(finals[row], taken, place, f'infos["final_obs"][{row}]')
        self._raw.check_limits(taken, 'infos["final_obs"]')
        return taken

    def close(self) -> None:
        """Close all copies."""
        self._env.close()


def copy_seeds(seed: int, copies: int) -> list[int]:
    """One seed of 31 bits per copy. Consecutive seeds give different results, so actors differ."""
    return [int(value) & MAX_SEED for value in np.random.SeedSequence(seed).generate_state(copies)]


def vector_seed(seed: int, copies: int) -> int:
    """The seed of a VectorEnv, whose copies use consecutive seeds; all fit 31 bits."""
    return copy_seeds(seed, 1)[0] % (MAX_SEED - copies)


def outcome_of(outcome: Any) -> tuple[Any, Any, Any, Any, Any]:
    """Check that a step returned five values.

    Raises:
        ValueError: if there are more or fewer.
    """
    if isinstance(outcome, (tuple, list)) and len(outcome) == STEP_VALUES:
        return outcome  # type: ignore[return-value]
    came = f"{len(outcome)} values" if isinstance(outcome, (tuple, list)) else in_short(outcome)
    old = "; old versions of Gym had one `done`: return terminated and truncated instead" if came == "4 values" else ""
    raise ValueError(f"expected step to return 5 values (observation, reward, terminated, truncated, info), got {came}{old}")


def info_of(info: Any) -> Mapping[str, Any]:
    """Check the `info` of a step.

    Raises:
        ValueError: if it is neither a mapping nor None.
    """
    if info is None or isinstance(info, Mapping):
        return info or {}
    raise ValueError(f"expected step to return info as a mapping, such as {{}}, got {in_short(info)}")


def observation_of(outcome: Any) -> Any:
    """The observation of a reset's two return values.

    Raises:
        ValueError: if the values are not an observation and a mapping.
    """
    if isinstance(outcome, (tuple, list)) and len(outcome) == 2 and (outcome[1] is None or isinstance(outcome[1], Mapping)):  # noqa: PLR2004
        return outcome[0]
    old = "" if isinstance(outcome, (tuple, list)) else "; if it returns the observation only, return (observation, {})"
    raise ValueError(f"expected reset to return 2 values (observation, info), got {in_short(outcome)}{old}")


def as_flags(values: Any, rows: int, what: str) -> Array:
    """Copy flags to bool `[rows]`, from bools or from numbers that are 0 or 1.

    Raises:
        ValueError: if the shape is wrong, or a value is neither 0 nor 1.
    """
    array = _one_a_row(values, rows, f"{what} of True or False")
    if array.dtype != np.bool_:
        wrong = (array != 0) & (array != 1)
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(f"expected {what} of True or False, got {array[row].item()} in row {row}")
    return array.astype(np.bool_)


def as_rewards(values: Any, rows: int) -> Array:
    """Copy rewards to float32 `[rows]`.

    Raises:
        ValueError: if the shape is wrong, or the values are not numbers.
    """
    array = _one_a_row(values, rows, "rewards of numbers")
    if array.dtype == np.float32:
        return array.copy()
    with np.errstate(over="ignore"):  # as in RawSpace
        return array.astype(np.float32)


def flag(value: Any, what: str) -> bool:
    """Check the flag of one copy or agent.

    Raises:
        ValueError: if it is neither a bool nor 0 or 1.
    """
    return bool(value) if type(value) in PLAIN_FLAGS else bool(as_flags(value, 1, what)[0])


def reward(value: Any, what: str = "a reward") -> float:
    """Check the reward of one copy or agent.

    Raises:
        ValueError: if it is not a single number.
    """
    return float(value) if type(value) in PLAIN_NUMBERS else float(_one_a_row(value, 1, f"{what} of one number")[0])


def as_array(values: Any, what: str) -> Array:
    """Convert numbers to an array; it may share memory with them.

    Raises:
        ValueError: if the values are not numbers, or cannot be converted to an array.
    """
    array: Array = values
    if type(values) is not np.ndarray or values.dtype.kind == "O":
        try:
            array = np.asarray(_plain(values))
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"expected {what}, got {in_short(values)}") from error
    if array.dtype.kind not in "fbiu":
        raise ValueError(f"expected {what}, got {in_short(values)}")
    return array


def in_short(value: Any) -> str:
    """A value and its type on one short line, for messages."""
    text = " ".join(repr(value).split())
    return f"{text[:60]}{'...' if len(text) > 60 else ''} ({type(value).__name__})"  # noqa: PLR2004


def _plain(values: Any) -> Any:
    """Values for `np.asarray`: tensors without gradient, and arrays of objects as lists."""
    if isinstance(values, np.ndarray):
        return values.tolist() if values.dtype.kind == "O" else values
    return values.detach().cpu() if hasattr(values, "detach") else values


def _one_a_row(values: Any, rows: int, what: str) -> Array:
    array = as_array(values, what)
    if array.shape == (rows,):
        return array
    if array.shape == (rows, 1) or (rows == 1 and array.shape == ()):
        flat: Array = array.reshape(rows)
        return flat
    shape = f" in shape ({rows},)" if rows > 1 else ""
    raise ValueError(f"expected {what}{shape}, got {in_short(values)} of shape {array.shape}")


def _limits(dtype: np.dtype[Any]) -> tuple[int, int]:
    if dtype.kind == "b":
        return 0, 1
    return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
