"""Observation and action spaces, in a form that two processes can compare (NumPy only)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from math import isfinite
from typing import Any, Literal

import numpy as np

MAX_CHOICES_BESIDE_NUMBERS = 2**24
"""The largest number of choices of a factor in an action with continuous numbers. Such rows are
float32, which represents whole numbers exactly up to this one."""
ACTION_MASK = "action_mask"
"""The key of a Dict observation that shows which choices are allowed."""
MASKED_LOGIT = -1e9
"""The logit of a choice that is not allowed: its probability is 0, and no gradient is infinite or
NaN."""

ObservationKind = Literal["vector", "image", "tokens", "mask", "dict"]


@dataclass(frozen=True)
class ObservationSpace:
    """The observation of one agent.

    Attributes:
        kind: `vector` [D], `image` [C, H, W] (uint8, bool or float), `tokens` [N, 3] (MettaGrid's rows
            of location, feature and value; the location 255 marks padding), or `mask` [A] (bool; only
            as the key `action_mask` of a Dict). `dict` is a `DictSpace`.
        shape: the shape of one observation.
        dtype: its NumPy dtype as a string, such as `float32`.
        feature_scales: `tokens` only: the divisor of each feature's value, by feature id.
        categorical_features: `tokens` only: the ids of features whose value is a category and not a
            quantity.
        num_categories: the largest number of categories of any feature; 0 if there are none.
        window: `tokens` only: the numbers of rows and columns that a location can name. The
            location 254 means "no place".
    """

    kind: ObservationKind
    shape: tuple[int, ...]
    dtype: str
    feature_scales: tuple[float, ...] = ()
    categorical_features: tuple[int, ...] = ()
    num_categories: int = 0
    window: tuple[int, int] = (16, 16)

    def __post_init__(self) -> None:
        ranks = {"vector": 1, "image": 3, "tokens": 2, "mask": 1}
        if len(self.shape) != ranks[self.kind]:
            raise ValueError(f"a {self.kind} observation has {ranks[self.kind]} axes, got shape {self.shape}")
        np.dtype(self.dtype)

    @property
    def parts(self) -> tuple[tuple[str, ObservationSpace], ...]:
        """The only part, without a name. A Dict has one part per key."""
        return (("", self),)


@dataclass(frozen=True)
class DictSpace(ObservationSpace):
    """The observation of one agent with several keys. It has no shape and no dtype of its own.

    Attributes:
        keys: the path and the space of each key, sorted by path. A nested key has the path
            `outer/inner`, an entry of a Tuple its number, and a mask the path `action_mask`.
    """

    kind: ObservationKind = "dict"
    shape: tuple[int, ...] = ()
    dtype: str = ""
    keys: tuple[tuple[str, ObservationSpace], ...] = ()

    def __post_init__(self) -> None:
        paths = [path for path, _ in self.keys]
        if not all(paths) or paths != sorted(set(paths)):
            raise ValueError(f"a Dict observation has different, sorted keys, got {paths}")
        if any((path == ACTION_MASK) != (part.kind == "mask") for path, part in self.keys):
            raise ValueError(f"a Dict observation has its mask, and nothing else, as {ACTION_MASK}")
        if all(part.kind == "mask" for _, part in self.keys):
            raise ValueError("a Dict observation has at least one key beside its mask")

    @staticmethod
    def of(keys: Mapping[str, ObservationSpace]) -> DictSpace:
        """Build it from keys in any order."""
        return DictSpace(keys=tuple(sorted(keys.items())))

    @property
    def parts(self) -> tuple[tuple[str, ObservationSpace], ...]:
        """The keys."""
        return self.keys


@dataclass(frozen=True)
class ActionPart:
    """One leaf of the structure that an environment declares for its actions.

    Attributes:
        path: keys of Dicts and positions of Tuples, from the outside in; empty if the action is one
            array.
        shape: the shape of its value in the environment; `()` for a Discrete.
        dtype: its NumPy dtype, as a string.
        columns: the range of its columns in an action's row.
        start: the environment's lowest value of each choice; empty for numbers.
    """

    path: tuple[str | int, ...]
    shape: tuple[int, ...]
    dtype: str
    columns: tuple[int, int]
    start: tuple[int, ...] = ()


@dataclass(frozen=True)
class ActionSpace:
    """The action of one agent: choices (Discrete, MultiDiscrete), numbers (Box), or both (Tuple, Dict).

    An action is one choice, or a row: first all choices, then all numbers. Numbers are scaled so
    that the bounds of the Box are -1 and 1.

    Attributes:
        sizes: the number of choices of each factor; one entry for `Discrete`, none for `Box`.
        factored: whether an action is a row; False only for `Discrete`.
        low: the environment's lower bound of each number.
        high: the environment's upper bound of each number.
        parts: the structure in which the environment takes a row; empty if it takes the row itself.
    """

    sizes: tuple[int, ...] = ()
    factored: bool = False
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    parts: tuple[ActionPart, ...] = ()

    def __post_init__(self) -> None:
        if not (self.sizes or self.low) or min(self.sizes, default=1) < 1:
            raise ValueError(f"an action space needs at least one factor with at least one choice, got {self.sizes}")
        if not self.factored and (len(self.sizes) != 1 or self.low):
            raise ValueError(f"a Discrete action has one factor, got {self.sizes}")
        if len(self.low) != len(self.high) or not all(map(_is_interval, self.low, self.high)):
            raise ValueError(f"each number needs finite bounds, low below high, got {self.low} and {self.high}")
        if self.low and max(self.sizes, default=1) > MAX_CHOICES_BESIDE_NUMBERS:
            raise ValueError(f"a factor beside numbers has at most {MAX_CHOICES_BESIDE_NUMBERS} choices, got {self.sizes}")
        if self.low and not self.parts:
            raise ValueError("an action with numbers needs the parts that the environment takes")
        ends = [0, *(end for part in sorted(self.parts, key=lambda part: part.columns) for end in part.columns), self.width]
        if self.parts and (ends[::2] != ends[1::2] or any(first >= last for first, last in pairwise(ends[::2]))):
            raise ValueError(f"the parts of an action cover each of its {self.width} columns once, got {self.parts}")

    @property
    def dimensions(self) -> int:
        """The number of continuous numbers in an action; 0 if there are only choices."""
        return len(self.low)

    @property
    def width(self) -> int:
        """The length of an action's row: one column per factor and per number."""
        return len(self.sizes) + len(self.low)

    @property
    def num_logits(self) -> int:
        """The number of logits: the choices of all factors, one factor after another."""
        return sum(self.sizes)

    @property
    def num_parameters(self) -> int:
        """The length of a policy's row: logits, means of the numbers, logarithms of their standard deviations."""
        return self.num_logits + 2 * len(self.low)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one action: `()` for Discrete, `(width,)` for everything else."""
        return (self.width,) if self.factored else ()

    @property
    def dtype(self) -> str:
        """The NumPy dtype of an action: float32 if it has numbers, int32 otherwise."""
        return "float32" if self.low else "int32"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, without the empty fields that only numbers and structures need."""
        values = asdict(self)
        return {name: value for name, value in values.items() if value or name in {"sizes", "factored"}}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> ActionSpace:
        """Build the space from the result of `to_dict`; lists and tuples are both accepted."""
        parts = (
            ActionPart(tuple(part["path"]), tuple(part["shape"]), part["dtype"], tuple(part["columns"]), tuple(part["start"]))
            for part in values.get("parts", ())
        )
        low, high = tuple(values.get("low", ())), tuple(values.get("high", ()))
        return ActionSpace(tuple(values["sizes"]), values["factored"], low, high, tuple(parts))


def _is_interval(low: float, high: float) -> bool:
    return isfinite(low) and isfinite(high) and low < high and isfinite(high - low)


@dataclass(frozen=True)
class Spaces:
    """The spaces of an environment: everything that a network and a trajectory depend on."""

    observation: ObservationSpace
    action: ActionSpace

    @property
    def masked(self) -> bool:
        """Whether each observation comes with a mask of the allowed choices."""
        return any(part.kind == "mask" for _, part in self.observation.parts)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` reads them back."""
        parts = {path: asdict(part) for path, part in self.observation.parts}
        observation = {"keys": parts} if isinstance(self.observation, DictSpace) else parts[""]
        return {"observation": observation, "action": self.action.to_dict()}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Spaces:
        """Build the spaces from the result of `to_dict`; lists and tuples are both accepted."""
        observation, action = values["observation"], values["action"]
        return Spaces(_space_from(observation), ActionSpace.from_dict(action))


def _space_from(values: dict[str, Any]) -> ObservationSpace:
    if "keys" in values:
        return DictSpace.of({path: _observation_from(part) for path, part in values["keys"].items()})
    return _observation_from(values)


def _observation_from(values: dict[str, Any]) -> ObservationSpace:
    return ObservationSpace(
        values["kind"],
        tuple(values["shape"]),
        values["dtype"],
        tuple(values["feature_scales"]),
        tuple(values["categorical_features"]),
        values["num_categories"],
        tuple(values["window"]),
    )
