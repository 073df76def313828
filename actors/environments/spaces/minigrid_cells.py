"""MiniGrid's cells of three numbers each (object, colour, state), which name categories and measure nothing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from actors.environments.boundary import RawSpace
from actors.environments.spaces.observations import ObservationConversion
from protocol.data.spaces import ObservationSpace
from protocol.data.trajectory import Array


def minigrid_cells(env: Any) -> dict[str, ObservationConversion]:
    """The conversion of `image`, if the environment shows MiniGrid's own Dict with the cells as they are."""
    if "minigrid" not in sys.modules:
        return {}
    from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX, STATE_TO_IDX  # noqa: PLC0415
    from minigrid.minigrid_env import MiniGridEnv  # noqa: PLC0415

    base = getattr(env, "unwrapped", None)
    shown = getattr(env.observation_space, "spaces", {}).get("image")
    if not isinstance(base, MiniGridEnv) or shown is None or shown != base.observation_space["image"]:
        return {}
    sizes = np.array([len(OBJECT_TO_IDX), len(COLOR_TO_IDX), len(STATE_TO_IDX)])
    return {"image": one_hot_bytes(np.broadcast_to(sizes, shown.shape))}


def one_hot_bytes(sizes: Array | Sequence[int]) -> ObservationConversion:
    """From bytes that name categories to one vector of one-hot bytes.

    Args:
        sizes: how many categories there are in each place; of one observation's shape.
    """
    counts = np.asarray(sizes)
    offsets = np.concatenate([[0], np.cumsum(counts)[:-1]])
    width = int(counts.sum())

    def convert(batch: Array) -> Array:
        rows = np.zeros((len(batch), width), np.uint8)
        np.put_along_axis(rows, batch.reshape(len(batch), counts.size) + offsets, 1, axis=1)
        return rows

    largest = (counts - 1).astype(np.uint8)
    raw = RawSpace("MiniGrid's view", counts.shape, np.dtype(np.uint8), np.zeros_like(largest), largest)
    return ObservationConversion(ObservationSpace("vector", (width,), "uint8"), raw, convert)
