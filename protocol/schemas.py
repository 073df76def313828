"""What a run's trajectories look like, as actors tell ingest and ingest tells the learner."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from protocol.codec import names_in
from protocol.errors import WireError
from protocol.spaces import Spaces
from protocol.trajectory import BlockSize, Field, Schema

DTYPES = ("bool", "uint8", "int8", "uint16", "int16", "int32", "int64", "float16", "float32", "float64")
"""What an observation may be made of; no object and no structured dtype ever comes from a wire."""

MAX_ROW_BYTES = 2**30
"""A step of a trajectory that would be larger than this is a mistake or an attack."""

EPISODE_FIELDS = ("episode_return", "episode_length", "episode_statistics")


@dataclass(frozen=True)
class RunSchema:
    """All that fixes the fields of trajectories and of batches.

    Attributes:
        spaces: the environment's spaces.
        core_state_size: the length of the recurrent state as one float32 row; 0 without a core.
        episode_statistics: names of the environment's own numbers, one of each an ended episode.
    """

    spaces: Spaces
    core_state_size: int
    episode_statistics: tuple[str, ...]

    @staticmethod
    def of(spaces: Spaces, schema: Schema) -> RunSchema:
        """From a trajectory's schema and the spaces that it was made with."""
        size = {entry.name: entry for entry in schema.fields}["core_state"].shape[0]
        described = RunSchema(spaces, size, schema.episode_statistics)
        assert described.trajectory == schema, "the schema is Schema.of(spaces, ...), of the spaces that WELCOME gave"
        return described

    @cached_property
    def trajectory(self) -> Schema:
        """The fields of a block of trajectories."""
        return Schema.of(self.spaces, core_state_size=self.core_state_size, episode_statistics=self.episode_statistics)

    @cached_property
    def batch(self) -> Schema:
        """The fields of a packed batch: a trajectory's without its episodes, and whose policy collected each row.

        `policy_version` and `fresh` come before the final observations, so that only the tail depends on their number.
        """
        kept = [entry for entry in self.trajectory.fields if entry.name not in EPISODE_FIELDS]
        finals = [entry for entry in kept if entry.axis == "final"]
        rows = [Field("policy_version", "int64", (), "trajectory"), Field("fresh", "bool", (), "trajectory")]
        return Schema((*(entry for entry in kept if entry.axis != "final"), *rows, *finals))

    @cached_property
    def identity(self) -> str:
        """A short name (64 bits of BLAKE2b); equal schemas and only they have equal ones."""
        text = json.dumps(self.to_dict(), sort_keys=True).encode()
        return hashlib.blake2b(text, digest_size=8).hexdigest()

    def row_bytes(self, steps: int) -> int:
        """The most that one trajectory of this many steps can hold: every step ends an episode and is cut."""
        return self.trajectory.nbytes(BlockSize(1, steps, steps, steps))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` reads them back."""
        return {
            "spaces": self.spaces.to_dict(),
            "core_state_size": self.core_state_size,
            "episode_statistics": list(self.episode_statistics),
        }

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> RunSchema:
        """Read what `to_dict` gave, from a peer that is not trusted.

        Raises:
            WireError: `schema` or `payload_json` if it is not whole and sensible.
        """
        core_state_size = values.get("core_state_size")
        if type(core_state_size) is not int or core_state_size < 0:
            raise WireError("schema", f"expected core_state_size, an integer from 0, got {str(core_state_size)[:40]}")
        described = RunSchema(read_spaces(values.get("spaces")), core_state_size, tuple(names_in(values, "episode_statistics")))
        if described.row_bytes(1) > MAX_ROW_BYTES:
            raise WireError("schema", f"one step of a trajectory would have {described.row_bytes(1)} bytes")
        return described

    def difference(self, other: RunSchema) -> str:
        """Say what differs first; only called when something does."""
        ours, theirs = self.to_dict(), other.to_dict()
        name = next(name for name in ours if ours[name] != theirs[name])
        return f"{name}: the run has {ours[name]}, this process has {theirs[name]}"


def read_spaces(values: Any) -> Spaces:
    """Spaces from a peer that is not trusted.

    Raises:
        WireError: `schema` if they are not whole and sensible.
    """
    try:
        spaces = Spaces.from_dict(values)
    except (KeyError, TypeError, ValueError) as error:
        raise WireError("schema", f"spaces: {type(error).__name__}: {str(error)[:100]}") from None
    numbers = (*spaces.observation.shape, *spaces.action.sizes)
    if spaces.observation.dtype not in DTYPES or not all(type(n) is int and 0 <= n < 2**31 for n in numbers):
        raise WireError("schema", f"spaces have dtype {spaces.observation.dtype[:20]!r} and sizes {str(numbers)[:60]}")
    return spaces
