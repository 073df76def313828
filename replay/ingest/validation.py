"""Checks whether a block can be trained on, before ingest stores it. A bad block never ends the session."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isfinite

import numpy as np

from oatmill.errors import WireError
from protocol.data.limits import LOG_STD_BOUNDS
from protocol.data.observations import field_name
from protocol.data.spaces import ACTION_MASK, MASKED_LOGIT, MAX_CHOICES_BESIDE_NUMBERS, ActionSpace
from protocol.data.trajectory import Array

BOOLEANS = b"\0\1"
MASK = field_name("observations", ACTION_MASK)
LARGEST_LOGIT = 1e30
"""If two logits differ by more than a float32 can hold, their log-probabilities become infinite."""
LEAST_LOG_PROBABILITY = -80.0
"""The smallest log-probability of an action that was taken, relative to the most likely one, in
nats. e^80 is about the largest importance ratio that a float32 holds."""
MOST_DEVIATIONS = (-2 * LEAST_LOG_PROBABILITY) ** 0.5
"""The largest distance of a number from its mean, in standard deviations: again 80 nats. Generators of
float32 normal numbers reach at most half of it."""

MAY_BE_ABSENT = ("episode_statistics",)
"""Arrays in which NaN means that the `info` of an episode does not have the number."""


class Validator:
    """The checks for the blocks of one run.

    Args:
        action: the run's action space.
        max_abs_reward: the largest absolute value of a reward that is accepted.
    """

    def __init__(self, action: ActionSpace, max_abs_reward: float) -> None:
        self._factors = tuple(action.sizes)
        self._sizes = np.asarray(action.sizes, np.uint32) if action.factored else np.uint32(action.sizes[0])
        self._fewest = min(action.sizes, default=0)
        self._logits = action.num_logits
        self._dimensions = action.dimensions
        self._max_abs_reward = max_abs_reward

    def check(self, arrays: dict[str, Array]) -> None:
        """Raise WireError with one of `protocol.wire.reasons.BAD_TRAJECTORY` if the block is invalid.

        This must be fast, because thousands of blocks with one trajectory can arrive per second. So the
        sum of squares of each float array is computed first. No single square is larger than this sum, so
        most checks need only the sum.

        Args:
            arrays: the block's fields by name, as `Schema.views` returns them.
        """
        check_booleans(arrays)
        squares = sums_of_squares(arrays)
        name = not_finite(arrays, squares)
        if name is not None:
            raise WireError("non_finite", f"{name} contains a number that is not finite")
        arrays = arrays | self._check_numbers(arrays) if self._dimensions else arrays
        self._check_actions(arrays["actions"])
        if MASK in arrays:
            self._check_mask(arrays)
        if not squares["rewards"] < 0.5 * self._max_abs_reward**2:  # 0.5 because sums are rounded
            self._check_rewards(arrays["rewards"])
        if (
            self._factors and not squares["behaviour_logits"] < 0.5 * (LEAST_LOG_PROBABILITY / 2) ** 2
        ):  # no two logits can differ by 80 nats
            self._check_behaviour(arrays)
        self._check_finals(arrays)
        if len(arrays["episode_length"]) and arrays["episode_length"].min() < 1:
            raise WireError("episodes", f"expected episode lengths of at least 1, got {arrays['episode_length'].min()}")

    def _check_numbers(self, arrays: dict[str, Array]) -> dict[str, Array]:
        """Check that each continuous action of a present agent is one that its Gaussian can draw.

        Returns:
            The choices and their logits, in the format of an action space without numbers.
        """
        present = arrays["valid"]
        rows, actions = arrays["behaviour_logits"], arrays["actions"]
        mean, log_std = np.split(rows[present][:, self._logits :], 2, axis=-1)
        low, high = LOG_STD_BOUNDS
        if log_std.size and not (low <= log_std.min() and log_std.max() <= high):
            raise WireError(
                "behaviour", f"expected log stds within {low:g} to {high:g}, got {log_std.min():g} to {log_std.max():g}"
            )
        numbers = actions[present][:, len(self._factors) :].astype(np.float64)
        away = np.abs(numbers - mean) / np.exp(log_std.astype(np.float64))
        if away.max(initial=0) > MOST_DEVIATIONS:
            raise WireError(
                "behaviour", f"expected actions that can be sampled, got one {away.max():g} deviations from its mean"
            )
        chosen = np.where(present[..., None], actions[..., : len(self._factors)], 0)
        if (np.rint(chosen) != chosen).any() or chosen.max(initial=0) > MAX_CHOICES_BESIDE_NUMBERS or chosen.min(initial=0) < 0:
            raise WireError(
                "action_range",
                f"expected choices that are whole numbers in [0, {self._sizes}), got {chosen.min()} to {chosen.max()}",
            )
        return {"actions": chosen.astype(np.int32), "behaviour_logits": rows[..., : self._logits]}

    def _check_actions(self, actions: Array) -> None:
        if not self._factors:
            return
        numbers = actions.view(np.uint32)  # negative numbers become very large
        if numbers.max(initial=0) < self._fewest:
            return
        if (numbers.max(axis=(0, 1), initial=0) >= self._sizes).any():
            raise WireError(
                "action_range", f"expected actions in [0, {self._sizes}), got {actions.min()} to {actions.max(axis=(0, 1))}"
            )

    def _check_mask(self, arrays: dict[str, Array]) -> None:
        """Check that each action of a present agent was allowed by its mask."""
        for factor, (allowed, taken) in enumerate(self._by_factor(arrays[MASK][:, :-1], arrays["actions"])):
            wrong = ~np.take_along_axis(allowed, taken[..., None], -1)[..., 0] & arrays["valid"]
            if wrong.any():
                row, step = np.argwhere(wrong)[0]
                of_factor = f" of factor {factor}" if len(self._factors) > 1 else ""
                raise WireError(
                    "masked_action",
                    f"expected actions that the mask allows, got {taken[row, step]}{of_factor} in row {row}, step {step}",
                )

    def _by_factor(self, choices: Array, actions: Array) -> Iterator[tuple[Array, Array]]:
        """Yield each factor's part `[n, T, size]` of an array with one entry per choice, and the choices that were taken."""
        start = 0
        for factor, size in enumerate(self._factors):
            part = choices[..., start : start + size] if len(self._factors) > 1 else choices
            yield part, actions[..., factor] if actions.ndim > 2 else actions  # noqa: PLR2004 -- [n, T] or [n, T, factors]
            start += size

    def _check_rewards(self, rewards: Array) -> None:
        low, high = float(rewards.min(initial=0.0)), float(rewards.max(initial=0.0))
        if max(-low, high) > self._max_abs_reward:
            raise WireError("reward_bound", f"expected |reward| <= {self._max_abs_reward:g}, got {low:g} to {high:g}")

    def _check_behaviour(self, arrays: dict[str, Array]) -> None:
        """Check that each action of a present agent was possible, so that importance ratios are finite."""
        logits = arrays["behaviour_logits"]
        if MASK in arrays:  # the learner applies the mask, too
            logits = np.where(arrays[MASK][:, :-1], logits, np.float32(MASKED_LOGIT))
        for choices, taken in self._by_factor(logits, arrays["actions"]):
            largest = choices.max(-1)
            if np.abs(largest).max(initial=0) > LARGEST_LOGIT:
                raise WireError("behaviour", f"expected the largest logits within {LARGEST_LOGIT:g}, got {largest.max():g}")
            behind = np.take_along_axis(choices, taken[..., None], -1)[..., 0] - largest
            if behind.min(initial=0) < LEAST_LOG_PROBABILITY and (behind[arrays["valid"]] < LEAST_LOG_PROBABILITY).any():
                raise WireError(
                    "behaviour",
                    f"expected actions that can be sampled, got one {-behind.min():g} nats below the most likely one",
                )

    @staticmethod
    def _check_finals(arrays: dict[str, Array]) -> None:
        """Check that each truncated step that is not terminated has one final observation.

        The step's value target is computed from it.
        """
        rows, steps = arrays["final_trajectory"], arrays["final_step"]
        if not len(rows) and b"\1" not in arrays["truncated"].tobytes():
            return
        cut = arrays["truncated"] & ~arrays["terminated"]
        if len(rows) != np.count_nonzero(cut):
            raise WireError(
                "final_index", f"expected {np.count_nonzero(cut)} final observations, one per truncated step, got {len(rows)}"
            )
        if not len(rows):
            return
        n, length = cut.shape
        if rows.min() < 0 or rows.max() >= n or steps.min() < 0 or steps.max() >= length:
            raise WireError("final_index", f"expected final observations of {n} rows and {length} steps")
        cut[rows, steps] = False
        if cut.any():
            raise WireError("final_index", "a truncated step has no final observation, or another step has one")


def check_booleans(arrays: Mapping[str, Array]) -> None:
    """Raise WireError `not_boolean` unless every byte of a flag is 0 or 1."""
    for flag, values in arrays.items():
        if values.dtype == np.bool_ and values.tobytes().translate(None, BOOLEANS):
            raise WireError("not_boolean", f"{flag} contains a byte that is neither 0 nor 1")


def sums_of_squares(arrays: Mapping[str, Array]) -> dict[str, float]:
    """Return the sum of squares of each float array.

    It is not finite if a number is not finite, or if it overflows.
    """
    return {
        name: float(np.vdot(values, values)) if values.size else 0.0  # np.dot would warn about an overflow
        for name, values in arrays.items()
        if values.dtype.kind == "f"
    }


def not_finite(arrays: Mapping[str, Array], squares: Mapping[str, float]) -> str | None:
    """Return the name of the first array that holds NaN or an infinity; None if there is none.

    Arrays of `MAY_BE_ABSENT` may hold NaN.

    If the sum of squares is finite, every number is finite. Otherwise the sum may only have overflowed, so
    the smallest and the largest number are checked: both are NaN if any number is NaN.

    Args:
        arrays: arrays by name.
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
