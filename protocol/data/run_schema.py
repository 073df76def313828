"""The form of a run's trajectories. Actors send it to ingest, and ingest sends it to the learner."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from oatmill.errors import WireError
from protocol.data.spaces import ActionPart, ActionSpace, DictSpace, ObservationSpace, Spaces
from protocol.data.trajectory import BlockSize, Field, Schema
from protocol.wire.codec import names_in

DTYPES = ("bool", "uint8", "int8", "uint16", "int16", "int32", "int64", "float16", "float32", "float64")
"""The dtypes that an observation may have. Object and structured dtypes are never accepted from a
peer."""

MAX_ROW_BYTES = 2**30
"""The largest step of a trajectory. A larger one is a mistake or an attack."""

MAX_PARTS = 256
MAX_PATH_CHARS = 200
MAX_FACTORS = 1024
MAX_DIMENSIONS = 2**16
MAX_FEATURES = 256
MAX_CATEGORIES = 2**16
MAX_STATISTICS = 1024

EPISODE_FIELDS = ("episode_return", "episode_length", "episode_statistics")


@dataclass(frozen=True)
class RunSchema:
    """Everything that determines the fields of trajectories and batches.

    Attributes:
        spaces: the environment's spaces.
        core_state_size: the length of the recurrent state as one float32 row; 0 without a recurrent
            core.
        episode_statistics: the names of the environment's own numbers, one value per ended episode.
        discounted_return: whether trajectories have the return that rewards are normalised by.
    """

    spaces: Spaces
    core_state_size: int
    episode_statistics: tuple[str, ...]
    discounted_return: bool = False

    @staticmethod
    def of(spaces: Spaces, schema: Schema) -> RunSchema:
        """Build it from a trajectory's schema and the spaces that the schema was made with."""
        fields = {entry.name: entry for entry in schema.fields}
        size = fields["core_state"].shape[0]
        described = RunSchema(spaces, size, schema.episode_statistics, "discounted_return" in fields)
        assert described.trajectory == schema, "the schema is Schema.of(spaces, ...), of the spaces that WELCOME gave"
        return described

    @cached_property
    def trajectory(self) -> Schema:
        """The fields of a block of trajectories."""
        return Schema.of(
            self.spaces,
            core_state_size=self.core_state_size,
            episode_statistics=self.episode_statistics,
            discounted_return=self.discounted_return,
        )

    @cached_property
    def batch(self) -> Schema:
        """The fields of a packed batch: those of a trajectory without its episodes, and facts about each row.

        `policy_version`, `fresh` and `importance` precede the final observations, so that only the
        end of the batch depends on the number of final observations.
        """
        kept = [entry for entry in self.trajectory.fields if entry.name not in EPISODE_FIELDS]
        finals = [entry for entry in kept if entry.axis == "final"]
        rows = [
            Field("policy_version", "int64", (), "trajectory"),
            Field("fresh", "bool", (), "trajectory"),
            Field("importance", "float32", (), "trajectory"),
        ]
        return Schema((*(entry for entry in kept if entry.axis != "final"), *rows, *finals))

    @cached_property
    def identity(self) -> str:
        """A short name (64 bits of BLAKE2b). Only equal schemas have equal names."""
        text = json.dumps(self.to_dict(), sort_keys=True).encode()
        return hashlib.blake2b(text, digest_size=8).hexdigest()

    def row_bytes(self, steps: int) -> int:
        """Return the largest size of a trajectory with this many steps, in bytes.

        In the largest one, each step ends an episode by truncation.
        """
        return self.trajectory.nbytes(BlockSize(1, steps, steps, steps))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON. `from_dict` reads them."""
        described = {
            "spaces": self.spaces.to_dict(),
            "core_state_size": self.core_state_size,
            "episode_statistics": list(self.episode_statistics),
        }
        # Only if it is true, so that the identities of other runs, which their logs contain, do not change.
        return described | ({"discounted_return": True} if self.discounted_return else {})

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> RunSchema:
        """Read the result of `to_dict` from a peer that is not trusted.

        Raises:
            WireError: `schema` or `payload_json` if it is incomplete or invalid.
        """
        core_state_size = values.get("core_state_size")
        if type(core_state_size) is not int or core_state_size < 0:
            raise WireError("schema", f"expected core_state_size, an integer from 0, got {str(core_state_size)[:40]}")
        returns = values.get("discounted_return", False)
        if type(returns) is not bool:
            raise WireError("schema", f"expected discounted_return, true or false, got {str(returns)[:40]}")
        described = RunSchema(read_spaces(values.get("spaces")), core_state_size, read_statistics(values), returns)
        if described.row_bytes(1) > MAX_ROW_BYTES:
            raise WireError("schema", f"one step of a trajectory would have {described.row_bytes(1)} bytes")
        return described

    def difference(self, other: RunSchema) -> str:
        """Describe the first difference. Call it only if there is one."""
        ours, theirs = self.to_dict(), other.to_dict()
        name = next(name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name))
        return f"{name}: the run has {ours.get(name, False)}, this process has {theirs.get(name, False)}"


def read_spaces(values: Any) -> Spaces:
    """Read spaces from a peer that is not trusted.

    Raises:
        WireError: `schema` if they are incomplete or invalid.
    """
    try:
        spaces = Spaces.from_dict(values)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise WireError("schema", f"spaces: {type(error).__name__}: {str(error)[:100]}") from None
    problem = _problem_of_observation(spaces) or _problem_of_action(spaces.action)
    if problem:
        raise WireError("schema", f"spaces: {problem}")
    return spaces


def _problem_of_observation(spaces: Spaces) -> str | None:
    space = spaces.observation
    if len(space.parts) > MAX_PARTS:
        return f"expected at most {MAX_PARTS} keys in a Dict observation, got {len(space.parts)}"
    if isinstance(space, DictSpace) and not all(len(path) <= MAX_PATH_CHARS and path.isprintable() for path, _ in space.parts):
        return f"expected keys of at most {MAX_PATH_CHARS} printable characters"
    for _, part in space.parts:
        problem = _problem_of_key(part) or (_problem_of_mask(part, spaces) if part.kind == "mask" else None)
        if problem:
            return problem
    return None


def _problem_of_mask(space: ObservationSpace, spaces: Spaces) -> str | None:
    if isinstance(spaces.observation, DictSpace) and space.dtype == "bool" and space.shape == (spaces.action.num_logits,):
        return None
    return f"expected an action mask of {spaces.action.num_logits} bools in a Dict observation, got {space.dtype} {space.shape}"


def _problem_of_key(space: ObservationSpace) -> str | None:
    """Describe what is wrong with one key's space, or return None.

    Its values may have any type of JSON.
    """
    if space.dtype not in DTYPES:
        return f"expected a dtype of {', '.join(DTYPES)}, got {str(space.dtype)[:20]!r}"
    if not all(_within(n, 0, 2**31) for n in space.shape) or prod(space.shape) * np.dtype(space.dtype).itemsize > MAX_ROW_BYTES:
        return f"expected a shape of at most {MAX_ROW_BYTES} bytes, got {str(space.shape)[:60]}"
    return _problem_of_tokens(space)


def _problem_of_tokens(space: ObservationSpace) -> str | None:
    scales, categorical = space.feature_scales, space.categorical_features
    if len(scales) > MAX_FEATURES or not all(type(scale) in (int, float) for scale in scales):
        return f"expected at most {MAX_FEATURES} feature_scales, each a number"
    if not all(_within(feature, 0, len(scales)) for feature in categorical) or len(set(categorical)) != len(categorical):
        return "expected categorical_features to name features, each once"
    if not _within(space.num_categories, 0, MAX_CATEGORIES):
        return f"expected num_categories below {MAX_CATEGORIES}"
    if len(space.window) != 2 or not all(_within(side, 1, 17) for side in space.window):  # noqa: PLR2004 -- rows and columns
        return "expected window to be two numbers from 1 to 16"
    return None


def _problem_of_action(space: ActionSpace) -> str | None:
    if len(space.sizes) > MAX_FACTORS or not all(_within(size, 1, 2**31) for size in space.sizes):
        return f"expected at most {MAX_FACTORS} factors of 1 to 2**31 - 1 choices, got {str(space.sizes)[:60]}"
    if space.num_logits > MAX_ROW_BYTES // np.dtype(np.float32).itemsize or type(space.factored) is not bool:
        return f"expected at most {MAX_ROW_BYTES} bytes of logits, and factored to be true or false"
    if space.dimensions > MAX_DIMENSIONS or not all(type(bound) in {int, float} for bound in (*space.low, *space.high)):
        return f"expected at most {MAX_DIMENSIONS} numbers in an action, each with bounds that are numbers"
    return next((problem for part in space.parts if (problem := _problem_of_part(part))), None)


def _problem_of_part(part: ActionPart) -> str | None:
    """Check the types. That the columns belong to the row was checked when the space was made."""
    if part.dtype not in DTYPES:
        return f"expected a part of an action to have a dtype of {', '.join(DTYPES)}, got {str(part.dtype)[:20]!r}"
    if not all(type(step) is str or _within(step, 0, MAX_FACTORS + MAX_DIMENSIONS) for step in part.path):
        return f"expected a part of an action to stand at keys and positions, got {str(part.path)[:60]}"
    width = part.columns[1] - part.columns[0]
    if not all(_within(n, 1, MAX_DIMENSIONS + 1) for n in part.shape) or prod(part.shape) != width:
        return f"expected a part of {width} columns to have a shape of as many, got {str(part.shape)[:60]}"
    if not all(type(start) is int for start in part.start) or len(part.start) not in {0, width}:
        return f"expected a part to have a lowest choice for each of its {width} columns, or none"
    return None


def _within(value: Any, low: int, high: int) -> bool:
    return type(value) is int and low <= value < high


def read_statistics(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Read the names of an environment's own numbers from a JSON object.

    Raises:
        WireError: `payload_json` if they are not a list of names; `schema` if there are too many,
            or duplicates.
    """
    names = tuple(names_in(values, "episode_statistics"))
    if len(names) > MAX_STATISTICS or len(set(names)) != len(names) or not all(map(str.isprintable, names)):
        raise WireError("schema", f"expected at most {MAX_STATISTICS} printable episode_statistics, each once")
    return names
