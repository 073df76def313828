"""What an observation and an action look like, in terms that two processes can compare (NumPy only)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

ObservationKind = Literal["vector", "image", "tokens", "mask", "dict"]

ACTION_MASK = "action_mask"
"""The key of a Dict observation that says which choices are allowed."""
MASKED_LOGIT = -1e9
"""What stands for the logit of a choice that is not allowed: its probability is 0, and no gradient becomes infinite or NaN."""


@dataclass(frozen=True)
class ObservationSpace:
    """One agent's observation.

    Attributes:
        kind: `vector` [D], `image` [C, H, W] (bytes, bools or float), `tokens` [N, 3] (MettaGrid's rows of location,
            feature and value, 255 in the location of a pad), or `mask` [A] (bool; only as the key `action_mask` of a Dict).
            `dict` is a `DictSpace`.
        shape: the shape of one observation.
        dtype: its NumPy dtype, as a string such as `float32`.
        feature_scales: `tokens` only: what a feature's value is divided by, indexed by feature id.
        categorical_features: `tokens` only: ids of the features whose value names a category and measures nothing.
        num_categories: the largest number of categories that any of them has; 0 where there is none.
        window: `tokens` only: the rows and columns that a location may name, besides 254 for what has no place.
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
        """The only part, under no name; a Dict has one a key."""
        return (("", self),)


@dataclass(frozen=True)
class DictSpace(ObservationSpace):
    """One agent's observation of several keys; it has no shape and no dtype of its own.

    Attributes:
        keys: the path and the space of each key, sorted by path. The path of a nested key is `outer/inner`, that of an entry
            of a Tuple its number. A mask has the path `action_mask`.
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
        """From keys in any order."""
        return DictSpace(keys=tuple(sorted(keys.items())))

    @property
    def parts(self) -> tuple[tuple[str, ObservationSpace], ...]:
        """The keys."""
        return self.keys


@dataclass(frozen=True)
class ActionSpace:
    """One agent's action: one choice (`Discrete`) or several at once (`MultiDiscrete`).

    Attributes:
        sizes: the number of choices of each factor; one entry for `Discrete`.
        factored: whether an action is a row of choices, one a factor (`MultiDiscrete`).
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
        """The length of a policy's row of logits: all factors' choices, one factor after another."""
        return sum(self.sizes)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one action: `()` for Discrete, `(factors,)` for MultiDiscrete."""
        return (len(self.sizes),) if self.factored else ()


@dataclass(frozen=True)
class Spaces:
    """All that a network and a trajectory need to know of an environment."""

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
        return {"observation": observation, "action": asdict(self.action)}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Spaces:
        """Build from what `to_dict` gave, lists or tuples alike."""
        observation, action = values["observation"], values["action"]
        return Spaces(_space_from(observation), ActionSpace(tuple(action["sizes"]), action["factored"]))


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
