"""Steps a new environment a few times with random actions, so that faults in `step` show before a run starts."""

from __future__ import annotations

import time

import numpy as np

from actors.environments.base import Environment
from actors.environments.checks import checked_step
from oatmill.errors import UserError
from protocol.data.observations import Observations
from protocol.data.spaces import ACTION_MASK, ActionSpace
from protocol.data.trajectory import Array

STEPS = 16
LIMIT_S = 1.0
"""No further step is taken after this time: a slow simulator must not delay the start of a run."""


def try_steps(environment: Environment, observations: Observations) -> None:
    """Step an environment with random allowed actions: `STEPS` times, or until `LIMIT_S` is over.

    Args:
        environment: an environment after a reset; it has to be reset again before it is used.
        observations: the observations of that reset, `[N, ...]`.

    Raises:
        UserError: if a step raises an exception or gives values of another form than the spaces say.
    """
    rng, until = np.random.default_rng(0), time.monotonic() + LIMIT_S
    for _ in range(STEPS):
        mask = observations[ACTION_MASK] if environment.spaces.masked else None
        actions = random_actions(environment.spaces.action, environment.num_rows, mask, rng)
        observations = checked_step(environment, actions, UserError).observations
        if time.monotonic() > until:
            return


def random_actions(action: ActionSpace, rows: int, mask: Array | None, rng: np.random.Generator) -> Array:
    """One random action per row, as `Environment.step` takes them.

    Args:
        action: the action space.
        rows: N, the number of rows.
        mask: the allowed choices, bool or 0 and 1 `[N, A]`; None if all are. A row that allows nothing gets any choice.
        rng: the random number generator.
    """
    liking = rng.random((rows, action.num_logits)) + (0 if mask is None else mask)  # of an allowed choice: 1 or more
    ends = np.cumsum(action.sizes, dtype=int)
    choices = [liking[:, end - size : end].argmax(-1) for size, end in zip(action.sizes, ends, strict=True)]
    numbers = rng.uniform(-1, 1, (rows, action.dimensions))
    actions: Array = np.column_stack([*choices, numbers])
    return actions.reshape(rows, *action.shape).astype(action.dtype)
