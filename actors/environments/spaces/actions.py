"""Converts Gymnasium's action spaces to oatmill's, and batches of actions to the environment's format.

Discrete, MultiDiscrete and MultiBinary are choices, a Box is numbers, and Tuple and Dict contain any
of these. oatmill's numbers are in -1..1; the environment gets its own units and its own structure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces as gym_spaces

from actors.environments.boundary import in_short
from actors.environments.spaces.observations import starts_of
from oatmill.errors import UserError
from protocol.data.actions import to_environment
from protocol.data.spaces import MAX_CHOICES_BESIDE_NUMBERS, ActionPart, ActionSpace
from protocol.data.trajectory import Array

Path = tuple[str | int, ...]
WAY_OUT = "convert it with an ActionWrapper, in a function named by env.factory"


@dataclass(frozen=True)
class ActionConversion:
    """Converts a batch of actions to the environment's format.

    Attributes:
        space: oatmill's action space.
        start: for plain choices, the environment's lowest actions, which are added; None if all are 0.
    """

    space: ActionSpace
    start: Array | None = None

    def convert(self, actions: Array) -> Any:
        """Actions `[N]` or `[N, width]` in the environment's format."""
        if self.space.parts:
            return to_environment(actions, self.space)
        return actions if self.start is None else actions + self.start


def convert_action_space(space: Any, name: str) -> ActionConversion:
    """Convert a Gymnasium action space.

    Args:
        space: the action space of one agent.
        name: the environment's name for messages.

    Raises:
        UserError: if oatmill does not support the space.
    """
    match space:
        case gym_spaces.Discrete():
            start = np.int64(space.start)
            return ActionConversion(ActionSpace((int(space.n),)), np.array(start) if start else None)
        case gym_spaces.MultiDiscrete() if len(space.shape) == 1:
            starts = starts_of(space)
            sizes = tuple(int(size) for size in space.nvec)
            return ActionConversion(ActionSpace(sizes, factored=True), starts if starts.any() else None)
        case gym_spaces.MultiBinary() if len(space.shape) == 1:
            return ActionConversion(ActionSpace((2,) * int(space.shape[0]), factored=True))
        case _:
            return ActionConversion(_structured(space, name))


@dataclass
class _Leaf:
    """Choices or numbers.

    Attributes:
        path: where it stands in the structure.
        space: the environment's.
        sizes: how many choices each factor has; empty for numbers.
        start: the environment's lowest of each factor's choices.
        low: the lower bound of each number; empty for choices.
        high: the upper bound of each number.
    """

    path: Path
    space: Any
    sizes: Sequence[int] = ()
    start: Sequence[int] = ()
    low: Sequence[float] = ()
    high: Sequence[float] = ()


def _structured(space: Any, name: str) -> ActionSpace:
    """Lay all leaves in one row: choices first, then numbers."""
    leaves = list(_leaves(space, (), name))
    choices = [leaf for leaf in leaves if leaf.sizes]
    numbers = [leaf for leaf in leaves if leaf.low]
    parts, column = [], 0
    for leaf in (*choices, *numbers):
        last = column + len(leaf.sizes) + len(leaf.low)
        shape, dtype = tuple(leaf.space.shape), np.dtype(leaf.space.dtype).name
        parts.append(ActionPart(leaf.path, shape, dtype, (column, last), tuple(leaf.start)))
        column = last
    sizes = tuple(size for leaf in choices for size in leaf.sizes)
    if numbers and max(sizes, default=1) > MAX_CHOICES_BESIDE_NUMBERS:
        raise UserError(
            f"{name}: expected at most {MAX_CHOICES_BESIDE_NUMBERS:,} choices per factor next to a Box, got {max(sizes):,}; "
            f"{WAY_OUT}"
        )
    if not leaves:
        raise UserError(f"{name}: expected an action space that is not empty, got {in_short(space)}; {WAY_OUT}")
    low = tuple(bound for leaf in numbers for bound in leaf.low)
    high = tuple(bound for leaf in numbers for bound in leaf.high)
    return ActionSpace(sizes, factored=True, low=low, high=high, parts=tuple(parts))


def _leaves(space: Any, path: Path, name: str) -> Iterator[_Leaf]:
    match space:
        case gym_spaces.Dict() if all(isinstance(key, str) for key in space.spaces):
            for key, inner in space.spaces.items():
                yield from _leaves(inner, (*path, key), name)
        case gym_spaces.Tuple():
            for position, inner in enumerate(space.spaces):
                yield from _leaves(inner, (*path, position), name)
        case _:
            yield _leaf(space, path, name)


def _leaf(space: Any, path: Path, name: str) -> _Leaf:
    match space:
        case gym_spaces.Discrete():
            return _Leaf(path, space, [int(space.n)], [int(space.start)])
        case gym_spaces.MultiDiscrete():
            return _Leaf(path, space, space.nvec.ravel().tolist(), starts_of(space).ravel().tolist())
        case gym_spaces.MultiBinary():
            count = int(np.prod(space.shape))
            return _Leaf(path, space, [2] * count, [0] * count)
        case gym_spaces.Box() if space.dtype.kind in "fiu" and np.prod(space.shape):
            return _bounded(space, path, name)
        case _:
            raise UserError(
                f"{name}: expected an action space of Discrete, MultiDiscrete, MultiBinary or Box, or a Tuple or Dict of "
                f"these, got {in_short(space)}{_at(path)}; {WAY_OUT}"
            )


def _bounded(space: Any, path: Path, name: str) -> _Leaf:
    low, high = (bound.astype(np.float64).ravel() for bound in (space.low, space.high))
    if not (np.isfinite(low) & np.isfinite(high)).all():
        raise UserError(
            f"{name}: expected a Box action with finite bounds, got {in_short(space)}{_at(path)}; give it bounds with "
            f"gymnasium.wrappers.TransformAction or an ActionWrapper of your own, in a function named by env.factory"
        )
    if not ((low < high) & np.isfinite(high - low)).all():
        raise UserError(f"{name}: expected a Box action with low below high, got {in_short(space)}{_at(path)}; {WAY_OUT}")
    return _Leaf(path, space, low=low.tolist(), high=high.tolist())


def _at(path: Path) -> str:
    return f" at {'.'.join(map(str, path))}" if path else ""
