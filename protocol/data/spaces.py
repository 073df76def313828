"""Observation and action spaces, in a form that two processes can compare (NumPy only)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

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
class ActionSpace:
    """The action of one agent: one choice (`Discrete`) or several at once (`MultiDiscrete`).

    Attributes:
        sizes: the number of choices of each factor; one entry for `Discrete`.
        factored: whether an action is a row with one choice per factor (`MultiDiscrete`).
    """

    sizes: tuple[int, ...]
    factored: bool = False

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1:
            raise ValueError(f"an action space needs at least one factor with at least one choice, got {self.sizes}")
        if not self.factored and len(self.sizes) != 1:
            raise ValueError(f"a Discrete action has one factor, got {self.sizes}")

    @property
    def num_logits(self) -> int:
        """The length of a row of logits: the choices of all factors, one factor after another."""
        return sum(self.sizes)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one action: `()` for Discrete, `(factors,)` for MultiDiscrete."""
        return (len(self.sizes),) if self.factored else ()


@dataclass(frozen=True)
class Spaces:
    """The spaces of an environment: everything that a network and a trajectory depend on."""

    observation: ObservationSpace
    action: ActionSpace

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON. `from_dict` reads them."""
        return asdict(self)

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
            ActionSpace(tuple(action["sizes"]), action["factored"]),
        )
