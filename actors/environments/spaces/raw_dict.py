"""Dict and Tuple observations as an environment gives them, taken apart into one array a key."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from actors.environments.boundary import Raw, RawSpace, in_short
from protocol.data.observations import ObservationDict

ONE = "an observation"
"""What messages call the value that `store` is given."""
Structure = str | Mapping[Any, "Structure"] | tuple["Structure", ...]
"""How keys are nested, with the path of each innermost one."""


class RawDict:
    """What a Dict or Tuple observation looks like; checks and copies as `RawSpace` does, key by key.

    Args:
        structure: how the environment nests its keys.
        spaces: of each path.
    """

    def __init__(self, structure: Structure, spaces: Mapping[str, Raw]) -> None:
        self._structure = structure
        self.spaces = dict(spaces)
        self._limited = [
            path for path, space in self.spaces.items() if not isinstance(space, RawSpace) or space.low is not None
        ]
        self._store_quickly = self._quick(structure)

    def empty(self, rows: int) -> ObservationDict[Any]:
        """Arrays of zeros for many observations."""
        return ObservationDict({path: space.empty(rows) for path, space in self.spaces.items()})

    def batch(self, values: Any, rows: int, what: str = "observations") -> ObservationDict[Any]:
        """A checked copy of many observations, in the structure of one with an array of all rows in each key's place.

        Raises:
            ValueError: if a key is missing or one too many, or its values are not its space's.
        """
        parts = entries(self._structure, values, what)
        return ObservationDict({path: self.spaces[path].batch(part, rows, f"{what} of {path}") for path, part in parts})

    def store(self, values: Any, into: ObservationDict[Any], row: int, what: str = ONE) -> None:
        """Check one observation and write it into a row of every key's array; `check_limits` is left to the caller.

        Raises:
            ValueError: if a key is missing or one too many, or its value is not its space's.
        """
        if what is ONE and self._store_quickly(values, into, row):  # this runs at every env step
            return
        for path, part in entries(self._structure, values, what):
            self.spaces[path].store(part, into[path], row, f"{what} of {path}")

    def _quick(self, structure: Structure) -> Callable[[Any, ObservationDict[Any], int], bool]:
        """A `store` without a generator for dicts and tuples that are as `structure`; it returns False for anything else."""
        if isinstance(structure, str):
            return lambda _values, _into, _row: False
        items = list(structure.items() if isinstance(structure, Mapping) else enumerate(structure))
        keys = dict(items).keys()
        leaves = [(key, self.spaces[path].store, path, f"{ONE} of {path}") for key, path in items if isinstance(path, str)]
        inner = [(key, self._quick(below)) for key, below in items if not isinstance(below, str)]

        fits: Callable[[Any], bool] = (
            (lambda values: type(values) is dict and values.keys() == keys)
            if isinstance(structure, Mapping)
            else (lambda values: type(values) is tuple and len(values) == len(items))
        )

        def store(values: Any, into: ObservationDict[Any], row: int) -> bool:
            if not fits(values):
                return False
            for key, store_one, path, said in leaves:
                store_one(values[key], dict.__getitem__(into, path), row, said)
            return not inner or all(below(values[key], into, row) for key, below in inner)

        return store

    def check_limits(self, rows: ObservationDict[Any], what: str = "observations", first_row: int = 0) -> None:
        """Check rows of every key against its limits.

        Raises:
            ValueError: naming the first value outside.
        """
        for path in self._limited:
            self.spaces[path].check_limits(rows[path], f"{what} of {path}", first_row)


def entries(structure: Structure, values: Any, what: str) -> Iterator[tuple[str, Any]]:
    """The path and the value of each innermost key.

    Raises:
        ValueError: if the keys are not the structure's.
    """
    if isinstance(structure, str):
        yield structure, values
        return
    if isinstance(structure, Mapping):
        if not isinstance(values, Mapping) or values.keys() != structure.keys():
            came = _listed(values) if isinstance(values, Mapping) else in_short(values)
            raise ValueError(f"expected {what} with the keys {_listed(structure)}, as observation_space says, got {came}")
        for key, inner in structure.items():
            yield from entries(inner, values[key], what)
        return
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != len(structure):
        raise ValueError(f"expected {what} with {len(structure)} entries, as observation_space says, got {in_short(values)}")
    for inner, value in zip(structure, values, strict=True):
        yield from entries(inner, value, what)


def _listed(keys: Mapping[Any, Any]) -> str:
    return ", ".join(sorted(map(str, keys))) or "none"
