"""Checks of what an environment returns: shapes, dtypes, finite numbers, and whether its copies differ.

Every reset is checked here (`begin`), and every unroll once (`check_block`). The conversions of each step, in
`actors.environments.boundary`, check what they convert. `checked_step` is for steps outside an unroll.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from typing import NamedTuple

import numpy as np

from actors.environments.base import Environment, Step
from oatmill.errors import OatmillError, RunError, UserCodeError, UserError, one_line
from protocol.data.observations import Observations, are_equal, parts_of
from protocol.data.spaces import ObservationSpace
from protocol.data.trajectory import Array, TrajectoryBlock

log = logging.getLogger("oatmill.environment")

SEED_HINT = "use self.np_random, which super().reset(seed=seed) seeds, or give the function of env.factory a parameter seed"
MANY_STARTS = 10**6
"""With at least this many possible starts of all copies together, two actors hardly ever start alike by chance."""


class Beginning(NamedTuple):
    """The start of an environment.

    Attributes:
        observations: the first observations `[N, ...]`, valid until the environment's next call.
        stream: a digest of them, by which the hub finds actors that start alike; empty if equal
            observations would mean nothing, because the environment may always start the same way.
    """

    observations: Observations
    stream: str


def first_observations(environment: Environment) -> Observations:
    """Reset an environment like `begin`, and return only the observations. A single copy is reset only once.

    Raises:
        UserError: like `begin`.
    """
    return _checked_reset(environment) if environment.num_copies == 1 else begin(environment).observations


def begin(environment: Environment) -> Beginning:
    """Reset an environment and check that its observations match its spaces.

    If all copies have equal first observations, or are few, they are reset again with the same seeds. If
    the result differs, the environment ignores its seed. If the copies were equal, a warning is logged.

    Raises:
        UserError: if the environment raises an exception, returns observations of another shape or
            dtype or numbers that are not finite, or changes torch's default dtype.
    """
    observations, copies = _checked_reset(environment), environment.num_copies
    before = observations.copy()
    if _different_starts(before, copies) ** copies >= MANY_STARTS:
        return Beginning(observations, _digest(before))
    observations = _checked_reset(environment)
    if are_equal(before, observations):
        return Beginning(observations, "")
    if _are_alike(before, copies):
        log.warning(
            "%s: all %d copies have the same first observations, and other ones after a second reset with the same "
            "seeds, so they ignore the seed of reset and use the same random numbers; %s",
            environment.name,
            copies,
            SEED_HINT,
        )
    return Beginning(observations, _digest(before))


def stepped(environment: Environment, actions: Array, error: type[OatmillError]) -> Step:
    """Step an environment.

    Args:
        environment: the environment.
        actions: one per row, as in `Environment.step`.
        error: the class of the exception that is raised if the environment raises one.
    """
    try:
        step = environment.step(actions)
    except OatmillError:
        raise
    except Exception as raised:
        raise error(f"{environment.name} raised in step: {one_line(raised)}") from raised
    check_torch_default(environment.name)
    return step


def checked_step(environment: Environment, actions: Array, error: type[OatmillError]) -> Step:
    """Step an environment like `stepped`, and raise `error` also if it gives a number that is not finite."""
    step = stepped(environment, actions, error)
    given = {"observations": step.observations, "final observations": step.final_observations, "rewards": step.rewards}
    for what, values in given.items():
        for path, part in parts_of(values):
            if not is_finite(part):
                raise error(
                    f"{environment.name} gave {what}{path and f' of {path}'} that are not finite (NaN or infinity): "
                    f"{first_not_finite(part)}"
                )
    return step


def is_finite(values: Array) -> bool:
    """Whether all numbers are finite; integers always are."""
    return values.dtype.kind != "f" or bool(np.isfinite(values).all())


def check_block(name: str, block: TrajectoryBlock) -> None:
    """Check that a block has only finite numbers. Only the actor knows whether the environment or the policy gave them.

    Args:
        name: the environment's name, for messages.
        block: an unroll.

    Raises:
        UserCodeError: if a number of the environment is not finite.
        RunError: if a number of the policy is not finite.
    """
    for field in ("observations", "final_observations", "rewards", "episode_return"):
        for path, part in parts_of(getattr(block, field)):
            if not is_finite(part):
                raise UserCodeError(
                    f"{name} gave {field}{path and f' of {path}'} that are not finite (NaN or infinity): "
                    f"{first_not_finite(part)}, as float32"
                )
    for field in ("behaviour_logits", "behaviour_value"):
        if not is_finite(getattr(block, field)):
            raise RunError(f"the policy of version {block.policy_version} gave a {field} that is not finite")


def warn_of_equal_streams(environment: Environment, observations: Observations, rewards: Array) -> None:
    """Warn if all copies had equal first steps, unless observations and rewards were constant.

    Args:
        environment: the environment.
        observations: its first observations, `[N, T, ...]`.
        rewards: its first rewards, `[N, T]`.
    """
    copies = environment.num_copies
    if not (_are_alike(observations, copies) and _are_alike(rewards, copies)):
        return
    if any((part != part[:, :1]).any() for _, part in parts_of(observations)) or (rewards != rewards[:, :1]).any():
        log.warning(
            "%s: all %d copies had the same observations and rewards in their first %d steps, despite different actions; if "
            "they should differ, they ignore the seed of reset; %s",
            environment.name,
            copies,
            rewards.shape[1],
            SEED_HINT,
        )


def _are_alike(values: Observations, copies: int) -> bool:
    """Whether there are several copies and their values are equal."""
    by_copy = [part.reshape(copies, -1) for _, part in parts_of(values)]
    return copies > 1 and all(bool((of_copy == of_copy[0]).all()) for of_copy in by_copy)


def _different_starts(observations: Observations, copies: int) -> int:
    of_copy = [[row.tobytes() for row in part.reshape(copies, -1)] for _, part in parts_of(observations)]
    return len(set(zip(*of_copy, strict=True)))


def _digest(observations: Observations) -> str:
    return hashlib.sha256(b"".join(part.tobytes() for _, part in parts_of(observations))).hexdigest()[:16]


def check_torch_default(name: str) -> None:
    """Raise a UserError if an environment has changed torch's default dtype, which the policy needs."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_default_dtype() is not torch.float32:
        raise UserError(
            f"{name}: expected torch's default dtype to stay float32, which the policy needs, got {torch.get_default_dtype()}; "
            f"leave torch.set_default_dtype out of the environment and give dtype= where its tensors are made"
        )


def _checked_reset(environment: Environment) -> Observations:
    try:
        observations = environment.reset()
    except OatmillError:
        raise
    except Exception as error:
        raise UserError(f"{environment.name} raised in reset: {one_line(error)}") from error
    check_torch_default(environment.name)
    shown = dict(parts_of(observations))
    for path, space in environment.spaces.observation.parts:
        _check_first(environment, f"first observations{path and f' of {path}'}", space, shown[path])
    return observations


def _check_first(environment: Environment, what: str, space: ObservationSpace, values: Array) -> None:
    expected = (environment.num_rows, *space.shape)
    if values.shape != expected or values.dtype != np.dtype(space.dtype):
        raise UserError(
            f"{environment.name}: expected {what} of shape {expected} and dtype {space.dtype}, as its space says, got "
            f"{values.shape} {values.dtype}; correct the environment's observation_space or reset"
        )
    if not is_finite(values):
        raise UserError(
            f"{environment.name}: expected finite {what}, got NaN or infinity ({first_not_finite(values)}); "
            f"correct the environment's reset"
        )


def first_not_finite(values: Array) -> str:
    """The first number that is not finite and its index, for messages."""
    place = np.argwhere(~np.isfinite(values))[0].tolist()
    return f"{values[tuple(place)]} at index {place}, the row first"
