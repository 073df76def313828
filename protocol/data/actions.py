"""Converts rows of actions to the form that the environment takes: its units and its structure (NumPy only)."""

from __future__ import annotations

from typing import Any

import numpy as np

from protocol.data.spaces import ActionPart, ActionSpace
from protocol.data.trajectory import Array


def to_environment(actions: Array, space: ActionSpace) -> Any:
    """Convert actions to the form that the environment declares.

    Args:
        actions: `[N]` or `[N, width]`; numbers are in -1..1, the whole range of each.
        space: the space of one action.

    Returns:
        The same actions if the space has no parts. Otherwise an array `[N, *shape]`, or Dicts and
        tuples of such arrays, with the dtypes that the environment declares; numbers are in its own
        units and within its bounds.
    """
    if not space.parts:
        return actions
    numbers = in_units(actions[:, len(space.sizes) :], space)
    tree: Any = None
    for part in space.parts:
        tree = _planted(tree, part.path, _leaf(actions, numbers, part, len(space.sizes)))
    return _with_tuples(tree)


def in_units(numbers: Array, space: ActionSpace) -> Array:
    """Scale numbers `[..., dimensions]` from -1..1 to the environment's units, as float64."""
    low, high = np.asarray(space.low), np.asarray(space.high)
    scaled: Array = low + (numbers.astype(np.float64) + 1) * (0.5 * (high - low))
    return scaled


def split_rows(actions: Any, count: int) -> list[Any]:
    """Return the action of each of `count` rows in the result of `to_environment`, without copying."""
    match actions:
        case dict():
            parts = {key: split_rows(value, count) for key, value in actions.items()}
            return [{key: values[row] for key, values in parts.items()} for row in range(count)]
        case tuple():
            return list(zip(*(split_rows(value, count) for value in actions), strict=True))
        case _:
            return actions.tolist() if actions.ndim == 1 and actions.dtype.kind == "i" else list(actions)


def copied(actions: Any) -> Any:
    """Return a copy of the result of `to_environment`, for an environment that may change it."""
    match actions:
        case dict():
            return {key: copied(value) for key, value in actions.items()}
        case tuple():
            return tuple(copied(value) for value in actions)
        case _:
            return actions.copy()


def _leaf(actions: Array, numbers: Array, part: ActionPart, num_choices: int) -> Array:
    first, last = part.columns
    dtype = np.dtype(part.dtype)
    if part.start:
        values = np.rint(actions[:, first:last]).astype(np.int64) + np.asarray(part.start, np.int64)
    else:
        values = numbers[:, first - num_choices : last - num_choices]
        values = np.rint(values) if dtype.kind in "iu" else values
    return values.reshape(len(actions), *part.shape).astype(dtype)


def _planted(tree: Any, path: tuple[str | int, ...], leaf: Array) -> Any:
    """Return a tree of dicts with one more leaf."""
    if not path:
        return leaf
    grown = tree or {}
    grown[path[0]] = _planted(grown.get(path[0]), path[1:], leaf)
    return grown


def _with_tuples(tree: Any) -> Any:
    """Convert dicts whose keys are positions to tuples."""
    if not isinstance(tree, dict):
        return tree
    made = {key: _with_tuples(value) for key, value in tree.items()}
    return tuple(made[key] for key in sorted(made)) if all(isinstance(key, int) for key in made) else made
