"""The arrays of a Dict observation, one per key, which are indexed, copied and cast together (no torch)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from protocol.data.spaces import DictSpace, ObservationSpace

Array = NDArray[Any]
T = TypeVar("T")


class ObservationDict(dict[str, T]):
    """The arrays or tensors of a Dict observation, by path.

    A string selects one key's array. Any other index is applied to all arrays: `observations[:, t]`
    is a step of every key, and `observations[:, t] = step` writes one.
    """

    def __getitem__(self, index: Any) -> Any:
        """One key's array, or every key's entries at an index."""
        if isinstance(index, str):
            return super().__getitem__(index)
        return each(lambda values: values[index], self)

    def __setitem__(self, index: Any, values: Any) -> None:
        """Replace one key's array, or write into every key's array."""
        if isinstance(index, str):
            super().__setitem__(index, values)
            return
        for path, into in self.items():
            into[index] = values[path]  # type: ignore[index]

    def copy(self) -> ObservationDict[T]:
        """Copies of the arrays."""
        copied: ObservationDict[T] = each(lambda values: values.copy(), self)
        return copied


Observations: TypeAlias = Any
"""Many observations: an array, or an ObservationDict with one array per key. Most code handles both
alike."""


def each(function: Callable[[Any], Any], observations: Any) -> Any:
    """Call a function with the array, or with the array of each key."""
    if isinstance(observations, dict):
        return ObservationDict({path: function(values) for path, values in observations.items()})
    return function(observations)


def zeros(space: ObservationSpace, *leading: int) -> Observations:
    """Return arrays of zeros with the given leading axes."""
    arrays = {path: np.zeros((*leading, *part.shape), part.dtype) for path, part in space.parts}
    return ObservationDict(arrays) if isinstance(space, DictSpace) else arrays[""]


def parts_of(observations: Observations) -> tuple[tuple[str, Array], ...]:
    """Each key's path and array; a plain array has the path ""."""
    return tuple(observations.items()) if isinstance(observations, dict) else (("", observations),)


def are_equal(one: Observations, other: Observations) -> bool:
    """Whether two observations of one space hold the same numbers."""
    return all(np.array_equal(values, theirs) for (_, values), (_, theirs) in zip(parts_of(one), parts_of(other), strict=True))


def concatenated(several: Sequence[Observations]) -> Observations:
    """Join observations along the first axis."""
    first = several[0]
    if isinstance(first, dict):
        return ObservationDict({path: np.concatenate([one[path] for one in several]) for path in first})
    return np.concatenate(several)


def field_name(name: str, path: str) -> str:
    """The name of one key's field in a schema: `observations` for a plain observation, `observations/camera` for a key."""
    return f"{name}/{path}" if path else name


def by_field(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a block or a batch, with those of a Dict observation's keys put together again."""
    together: dict[str, Any] = {}
    for name, values in arrays.items():
        field, _, path = name.partition("/")
        if path:
            together.setdefault(field, ObservationDict())[path] = values
        else:
            together[field] = values
    return together
