"""Whether a block that fits the schema can be trained on. Ingest asks before it stores; a bad block never ends the session."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

import numpy as np

from oatmill.errors import WireError
from protocol.data.spaces import ActionSpace
from protocol.data.trajectory import Array

BOOLEANS = b"\0\1"
LARGEST_LOGIT = 1e30
"""Two logits further apart than a float32 holds would make their log-probabilities infinite."""
LEAST_LOG_PROBABILITY = -80.0
"""Of an action that was taken, in nats below the likeliest: e^80 is about the largest importance ratio that a float32 holds."""

MAY_BE_ABSENT = ("episode_statistics",)
"""Arrays in which NaN stands for what an episode's `info` did not have."""


class Validator:
    """The checks of one run.

    Args:
        action: the run's action space.
        max_abs_reward: the largest absolute value of a reward that is accepted.
    """

    def __init__(self, action: ActionSpace, max_abs_reward: float) -> None:
        self._factors = tuple(action.sizes)
        self._sizes = np.asarray(action.sizes, np.uint32) if action.factored else np.uint32(action.sizes[0])
        self._fewest = min(action.sizes)
        self._max_abs_reward = max_abs_reward

    def check(self, arrays: dict[str, Array]) -> None:
        """Raise WireError with one of `protocol.wire.reasons.BAD_TRAJECTORY` if the block is not sound.

        Blocks of one trajectory come by the thousand in a second, so what a sum of squares rules out is not looked at again:
        no number's square is larger than the sum.

        Args:
            arrays: the block's fields by name, as `Schema.views` gives them.
        """
        for flag, values in arrays.items():
            if values.dtype == np.bool_ and values.tobytes().translate(None, BOOLEANS):
                raise WireError("not_boolean", f"{flag} holds a byte that is neither 0 nor 1")
        squares = sums_of_squares(arrays)
        name = not_finite(arrays, squares)
        if name is not None:
            raise WireError("non_finite", f"{name} holds a number that is not finite")
        self._check_actions(arrays["actions"])
        if not squares["rewards"] < 0.5 * self._max_abs_reward**2:  # half of it: sums are rounded
            self._check_rewards(arrays["rewards"])
        if not squares["behaviour_logits"] < 0.5 * (LEAST_LOG_PROBABILITY / 2) ** 2:  # no two are 80 nats apart
            self._check_behaviour(arrays)
        self._check_finals(arrays)
        if len(arrays["episode_length"]) and arrays["episode_length"].min() < 1:
            raise WireError("episodes", f"expected lengths from 1 on, got {arrays['episode_length'].min()}")

    def _check_actions(self, actions: Array) -> None:
        numbers = actions.view(np.uint32)  # what is below 0 is very large then
        if numbers.max(initial=0) < self._fewest:
            return
        if (numbers.max(axis=(0, 1), initial=0) >= self._sizes).any():
            raise WireError(
                "action_range", f"expected actions in [0, {self._sizes}), got {actions.min()} to {actions.max(axis=(0, 1))}"
            )

    def _check_rewards(self, rewards: Array) -> None:
        low, high = float(rewards.min(initial=0.0)), float(rewards.max(initial=0.0))
        if max(-low, high) > self._max_abs_reward:
            raise WireError("reward_bound", f"expected |reward| <= {self._max_abs_reward:g}, got {low:g} to {high:g}")

    def _check_behaviour(self, arrays: dict[str, Array]) -> None:
        """Where the agent was present: what it did was possible, so that importance ratios are finite."""
        actions, logits, start = arrays["actions"], arrays["behaviour_logits"], 0
        for factor, size in enumerate(self._factors):
            choices = logits[..., start : start + size] if len(self._factors) > 1 else logits
            taken = actions[..., factor] if actions.ndim > 2 else actions  # noqa: PLR2004 -- [n, T] or [n, T, factors]
            largest = choices.max(-1)
            if np.abs(largest).max(initial=0) > LARGEST_LOGIT:
                raise WireError("behaviour", f"expected the largest logits within {LARGEST_LOGIT:g}, got {largest.max():g}")
            behind = np.take_along_axis(choices, taken[..., None], -1)[..., 0] - largest
            if behind.min(initial=0) < LEAST_LOG_PROBABILITY and (behind[arrays["valid"]] < LEAST_LOG_PROBABILITY).any():
                raise WireError(
                    "behaviour", f"expected actions that can be drawn, got one {-behind.min():g} nats behind the likeliest"
                )
            start += size

    @staticmethod
    def _check_finals(arrays: dict[str, Array]) -> None:
        """One of each step that was cut and not terminated: that step's value would be anything without it."""
        rows, steps = arrays["final_trajectory"], arrays["final_step"]
        if not len(rows) and b"\1" not in arrays["truncated"].tobytes():
            return
        cut = arrays["truncated"] & ~arrays["terminated"]
        if len(rows) != np.count_nonzero(cut):
            raise WireError(
                "final_index", f"expected {np.count_nonzero(cut)} final observations, one a truncated step, got {len(rows)}"
            )
        if not len(rows):
            return
        n, length = cut.shape
        if rows.min() < 0 or rows.max() >= n or steps.min() < 0 or steps.max() >= length:
            raise WireError("final_index", f"expected final observations of {n} rows and {length} steps")
        cut[rows, steps] = False
        if cut.any():
            raise WireError("final_index", "a truncated step has no final observation, or another step has one")


def sums_of_squares(arrays: Mapping[str, Array]) -> dict[str, float]:
    """Of each array of floats, at the speed of memory; not finite if a number is not, or if it overflows."""
    return {
        name: float(np.vdot(values, values)) if values.size else 0.0  # np.dot would warn where it overflows
        for name, values in arrays.items()
        if values.dtype.kind == "f"
    }


def not_finite(arrays: Mapping[str, Array], squares: Mapping[str, float]) -> str | None:
    """The first array that holds NaN or an infinity, or None. NaN stands for what is absent where that is allowed.

    If the sum of squares is finite, so is every number. If it is not, it may only have overflowed, and the smallest and the
    largest number tell: both are NaN if any is.

    Args:
        arrays: by name.
        squares: their `sums_of_squares`.
    """
    for name, total in squares.items():
        if isfinite(total):
            continue
        values = arrays[name]
        if name in MAY_BE_ABSENT:
            values = values[~np.isnan(values)]
        if values.size and not (isfinite(values.min()) and isfinite(values.max())):
            return name
    return None
