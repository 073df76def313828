"""Trajectories as they are collected, sent and queued (NumPy only).

A trajectory is one unroll: T steps of one agent. An actor steps n agents at once, so it sends a
block of n trajectories with equal T. The schema, agreed on when an actor joins, says where each
field is in the bytes of a block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from protocol.data.compression import decompressed
from protocol.data.observations import Observations, field_name
from protocol.data.spaces import Spaces

Array = NDArray[Any]
Axis = Literal["step", "step+1", "trajectory", "final", "episode"]

ALIGNMENT = 8
"""Fields start at multiples of this many bytes, so that views of a received frame are aligned for
every dtype."""

AGENT_SPREAD = "agent_return_std"
"""The episode statistic of environments with several agents: the standard deviation of the agents' returns."""

MAX_SIZES_KNOWN = 1024
"""The number of block sizes whose layout is remembered."""


@dataclass(frozen=True)
class Field:
    """One named array of a block.

    Attributes:
        name: the field's name in `TrajectoryBlock`; of a Dict observation's key `observations/` and the key's path.
        dtype: its NumPy dtype, as a string.
        shape: the shape of one item.
        axis: what the leading axes count: `step` [n, T], `step+1` [n, T + 1], `trajectory` [n],
            `final` [F] (one per truncated step), `episode` [E] (one per ended episode).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    axis: Axis


class BlockSize(NamedTuple):
    """The numbers that, together with the schema, determine the length of a block in bytes."""

    trajectories: int
    steps: int
    finals: int
    episodes: int


class _Place(NamedTuple):
    """The position of one field in a packed block."""

    name: str
    dtype: np.dtype[Any]
    offset: int
    shape: tuple[int, ...]
    nothing: Array | None  # the field itself if it is empty: in most blocks, no episode ends


@dataclass(frozen=True)
class Schema:
    """The fields of every block of a run, in the order in which they are packed."""

    fields: tuple[Field, ...]
    episode_statistics: tuple[str, ...] = ()

    @staticmethod
    def of(
        spaces: Spaces, *, core_state_size: int, episode_statistics: tuple[str, ...] = (), discounted_return: bool = False
    ) -> Schema:
        """Build the schema of a run.

        Args:
            spaces: the environment's spaces.
            core_state_size: the length of the recurrent state as one float32 row; 0 without a
                recurrent core.
            episode_statistics: the names of the environment's own numbers, one value per ended
                episode.
            discounted_return: whether trajectories have the return that rewards are normalised by.
        """
        parts, action = spaces.observation.parts, spaces.action
        returns = (Field("discounted_return", "float32", (), "trajectory"),) if discounted_return else ()
        return Schema(
            (
                *(Field(field_name("observations", path), part.dtype, part.shape, "step+1") for path, part in parts),
                Field("actions", action.dtype, action.shape, "step"),
                Field("rewards", "float32", (), "step"),
                Field("terminated", "bool", (), "step"),
                Field("truncated", "bool", (), "step"),
                Field("valid", "bool", (), "step"),
                Field("behaviour_logits", "float32", (action.num_parameters,), "step"),
                Field("behaviour_value", "float32", (), "step"),
                Field("core_state", "float32", (core_state_size,), "trajectory"),
                *(Field(field_name("final_observations", path), part.dtype, part.shape, "final") for path, part in parts),
                *returns,
                Field("final_trajectory", "int32", (), "final"),
                Field("final_step", "int32", (), "final"),
                Field("episode_return", "float32", (), "episode"),
                Field("episode_length", "int32", (), "episode"),
                Field("episode_statistics", "float32", (len(episode_statistics),), "episode"),
            ),
            episode_statistics,
        )

    @property
    def mostly_integers(self) -> bool:
        """Whether most of an observation's bytes are integers or booleans, which lz4 makes several times shorter."""
        nbytes = {True: 0, False: 0}
        for entry in self.fields:
            if entry.axis == "step+1":
                dtype = np.dtype(entry.dtype)
                nbytes[dtype.kind != "f"] += prod(entry.shape) * dtype.itemsize
        return nbytes[True] > nbytes[False]

    def shape(self, entry: Field, size: BlockSize) -> tuple[int, ...]:
        """Return the shape of one field in a block of this size."""
        leading = {
            "step": (size.trajectories, size.steps),
            "step+1": (size.trajectories, size.steps + 1),
            "trajectory": (size.trajectories,),
            "final": (size.finals,),
            "episode": (size.episodes,),
        }
        return leading[entry.axis] + entry.shape

    @cached_property
    def _places(self) -> dict[BlockSize, tuple[list[_Place], int]]:
        """The positions of all fields, by block size. The same few sizes occur again and again."""
        return {}

    def _places_of(self, size: BlockSize) -> tuple[list[_Place], int]:
        """Return the position of each field in a block of this size, and the block's length in bytes."""
        known = self._places.get(size)
        if known is not None:
            return known
        places, offset = [], 0
        for entry in self.fields:
            shape, dtype = self.shape(entry, size), np.dtype(entry.dtype)
            nothing = None if prod(shape) else np.empty(shape, dtype)
            places.append(_Place(entry.name, dtype, offset, shape, nothing))
            offset += aligned(prod(shape) * dtype.itemsize)
        if len(self._places) >= MAX_SIZES_KNOWN:
            self._places.clear()
        self._places[size] = places, offset
        return places, offset

    def nbytes(self, size: BlockSize) -> int:
        """Return the exact length of a packed block, in bytes."""
        return self._places_of(size)[1]

    def pack(self, block: TrajectoryBlock, spare: memoryview | None = None) -> memoryview:
        """Copy a block's arrays into one buffer, field after field, each padded with zeros to `ALIGNMENT`.

        Args:
            block: the trajectories.
            spare: a buffer to reuse; taken only if it has exactly the right length.
        """
        size = block.size
        nbytes = self.nbytes(size)
        buffer = spare if spare is not None and spare.nbytes == nbytes else np.zeros(nbytes, np.uint8).data
        for name, view in self.views(buffer, size).items():
            view[...] = block.array(name)
        return buffer

    def views(self, buffer: bytes | bytearray | memoryview, size: BlockSize) -> dict[str, Array]:
        """Return the fields of a packed block as arrays that share the buffer's memory.

        Raises:
            ValueError: if the buffer does not have exactly the length that the schema and the size
                require.
        """
        places, expected = self._places_of(size)
        length = memoryview(buffer).nbytes
        if length != expected:
            raise ValueError(f"expected {expected} bytes for {size}, got {length}")
        return {
            name: np.ndarray(shape, dtype, buffer, offset) if nothing is None else nothing
            for name, dtype, offset, shape, nothing in places
        }

    def unpack(self, payload: bytes | bytearray | memoryview, size: BlockSize) -> dict[str, Array]:
        """Return the fields of a block that may be compressed; of one that is not, they share the payload's memory.

        Raises:
            ValueError: if the payload is not a block of this size.
        """
        return self.views(decompressed(payload, self.nbytes(size)), size)


@dataclass(frozen=True)
class TrajectoryBlock:
    """n trajectories of T steps, which one actor collected in one unroll under one policy version.

    Observations follow same-step autoreset: if an episode ends at step t, `observations[:, t + 1]`
    is the first observation of the next episode.
    """

    observations: Observations  # [n, T + 1, ...]
    actions: Array  # [n, T] int32, or [n, T, width] int32, float32 where it has numbers: those are as drawn, not squashed
    rewards: Array  # [n, T], float32, as the environment gave them
    terminated: Array  # [n, T], bool: the episode ended and has no future
    truncated: Array  # [n, T], bool: the episode was cut and is bootstrapped from its final observation
    valid: Array  # [n, T], bool: False where the row's agent was absent
    behaviour_logits: Array  # [n, T, A], float32: logits, normalised or not, then means and log stds of numbers
    behaviour_value: Array  # [n, T], float32, in units of the value head
    core_state: Array  # [n, S], float32, the recurrent state before observations[:, 0]; S = 0 without a core
    final_observations: Observations  # [F, ...], the last observation of each truncated step
    final_trajectory: Array  # [F], int32, its trajectory within the block
    final_step: Array  # [F], int32, its step t
    episode_return: Array  # [E], float32, undiscounted and unscaled, of each episode that ended here
    episode_length: Array  # [E], int32
    episode_statistics: Array  # [E, X], float32, the schema names the columns; NaN where an episode has no such number
    policy_version: int
    actor_id: int = -1
    incarnation: int = 0
    collected_at: float = 0.0  # seconds since the epoch at which the unroll ended
    counters: Mapping[str, float] = field(default_factory=dict)  # cumulative since the actor started
    discounted_return: Array | None = None  # [n], float32, of the episode before observations[:, 0]; None if nobody reads it

    def array(self, field: str) -> Array:
        """The array of one of the schema's fields."""
        name, _, path = field.partition("/")
        values = getattr(self, name)
        array: Array = values[path] if path else values
        return array

    @property
    def size(self) -> BlockSize:
        """The numbers that fix the block's packed length."""
        n, steps = self.rewards.shape
        return BlockSize(n, steps, len(self.final_step), len(self.episode_return))


def aligned(nbytes: int) -> int:
    """Round a length up to `ALIGNMENT`."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
