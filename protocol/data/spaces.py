"""Observation and action spaces, in a form that two processes can compare (NumPy only)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from math import isfinite
from typing import Any, Literal

import numpy as np

MAX_CHOICES_BESIDE_NUMBERS = 2**24
"""Choices that stand in a row with numbers are float32, which holds whole numbers up to this one."""
LOG_STD_BOUNDS = (-20.0, 5.0)
"""What the logarithm of a number's standard deviation may be at all; the network's own bounds lie within."""

ObservationKind = Literal["vector", "image", "tokens"]


@dataclass(frozen=True)
class ObservationSpace:
    """The observation of one agent.

    Attributes:
        kind: `vector` [D], `image` [C, H, W] (uint8 or float), or `tokens` [N, 3] (MettaGrid's rows
            of location, feature and value; the location 255 marks padding).
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
        ranks = {"vector": 1, "image": 3, "tokens": 2}
        if len(self.shape) != ranks[self.kind]:
            raise ValueError(f"a {self.kind} observation has {ranks[self.kind]} axes, got shape {self.shape}")
        np.dtype(self.dtype)


@dataclass(frozen=True)
class ActionPart:
    """One leaf of the structure that an environment declares its actions in.

    Attributes:
        path: where it stands: keys of Dicts and positions of Tuples, from the outside in; empty if the action is one array.
        shape: of its value, as the environment takes it; `()` for a Discrete.
        dtype: its NumPy dtype, as a string.
        columns: where its numbers stand in an action's row, one after another.
        start: of choices, the environment's lowest of each; empty for numbers.
    """

    path: tuple[str | int, ...]
    shape: tuple[int, ...]
    dtype: str
    columns: tuple[int, int]
    start: tuple[int, ...] = ()


@dataclass(frozen=True)
class ActionSpace:
    """One agent's action: choices (Discrete, MultiDiscrete), numbers (Box), or several of both (Tuple, Dict).

    An action is one choice, or a row: first all choices, then all numbers. Numbers are scaled so that the bounds of the Box are
    -1 and 1.

    Attributes:
        sizes: the number of choices of each factor; one entry for `Discrete`, none for `Box`.
        factored: whether an action is a row; False for `Discrete` alone.
        low: the environment's lower bound of each number.
        high: the environment's upper bound of each number.
        parts: how the environment wants a row taken apart; empty if it takes the row as it is.
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
        """The length of an action's row: one column a factor, one a number."""
        return len(self.sizes) + len(self.low)

    @property
    def num_logits(self) -> int:
        """The number of logits: the choices of all factors, one factor after another."""
        return sum(self.sizes)

    @property
    def num_parameters(self) -> int:
        """The length of a policy's row: the logits, then each number's mean, then the logarithm of each one's deviation."""
        return self.num_logits + 2 * len(self.low)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one action: `()` for Discrete, `(width,)` for everything else."""
        return (self.width,) if self.factored else ()

    @property
    def dtype(self) -> str:
        """Of an action: int32, or float32 where it has numbers (choices are whole numbers then)."""
        return "float32" if self.low else "int32"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what only numbers and structures need is left out where there are none."""
        values = asdict(self)
        return {name: value for name, value in values.items() if value or name in {"sizes", "factored"}}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> ActionSpace:
        """Build from what `to_dict` gave, lists or tuples alike."""
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

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON. `from_dict` reads them."""
        return {"observation": asdict(self.observation), "action": self.action.to_dict()}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Spaces:
        """Build the spaces from the result of `to_dict`; lists and tuples are both accepted."""
        observation, action = values["observation"], values["action"]
        return Spaces(
            ObservationSpace(
                observation["kind"],
                tuple(observation["shape"]),
                observation["dtype"],
                tuple(observation["feature_scales"]),
                tuple(observation["categorical_features"]),
                observation["num_categories"],
                tuple(observation["window"]),
            ),
            ActionSpace.from_dict(action),
        )
