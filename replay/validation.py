"""Whether a block that fits the schema can be trained on. Ingest asks before it stores; a bad block never ends the session."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

import numpy as np

from protocol.errors import WireError
from protocol.spaces import ActionSpace
from protocol.trajectory import Array

FLAGS = ("terminated", "truncated", "valid")


class Validator:
    """The checks of one run.

    Args:
        action: the run's action space.
        max_abs_reward: the largest reward, as to its size, that is believed.
    """

    def __init__(self, action: ActionSpace, max_abs_reward: float) -> None:
        self._sizes = np.asarray(action.sizes, np.int32) if action.factored else np.int32(action.sizes[0])
        self._max_abs_reward = max_abs_reward

    def check(self, arrays: dict[str, Array]) -> None:
        """Raise WireError with one of `protocol.reasons.BAD_TRAJECTORY` if the block is not sound.

        Args:
            arrays: the block's fields by name, as `Schema.views` gives them.
        """
        for flag in FLAGS:
            if arrays[flag].view(np.uint8).max(initial=0) > 1:
                raise WireError("not_boolean", f"{flag} holds a byte that is neither 0 nor 1")
        name = not_finite(arrays)
        if name is not None:
            raise WireError("non_finite", f"{name} holds a number that is not finite")
        self._check_actions(arrays["actions"])
        rewards = arrays["rewards"]
        low, high = float(rewards.min(initial=0.0)), float(rewards.max(initial=0.0))
        if max(-low, high) > self._max_abs_reward:
            raise WireError("reward_bound", f"expected |reward| <= {self._max_abs_reward:g}, got {low:g} to {high:g}")
        self._check_finals(arrays)

    def _check_actions(self, actions: Array) -> None:
        largest = actions.max(axis=(0, 1), initial=0)  # of each factor
        if actions.min(initial=0) < 0 or (largest >= self._sizes).any():
            raise WireError("action_range", f"expected actions in [0, {self._sizes}), got {actions.min()} to {largest}")

    @staticmethod
    def _check_finals(arrays: dict[str, Array]) -> None:
        rows, steps = arrays["final_trajectory"], arrays["final_step"]
        if not len(rows):
            return
        n, length = arrays["rewards"].shape
        if rows.min() < 0 or rows.max() >= n or steps.min() < 0 or steps.max() >= length:
            raise WireError("final_index", f"expected final observations of {n} rows and {length} steps")


def not_finite(arrays: Mapping[str, Array]) -> str | None:
    """The first array that holds NaN or an infinity, or None.

    The sum of squares answers the common case at the speed of memory: if it is finite, so is every number. If it is not, it
    may only have overflowed, and the smallest and the largest number tell: both are NaN if any is.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        for name, values in arrays.items():
            if values.dtype.kind != "f" or not values.size:
                continue
            flat = values.ravel()
            if not isfinite(np.dot(flat, flat)) and not (isfinite(flat.min()) and isfinite(flat.max())):
                return name
    return None
