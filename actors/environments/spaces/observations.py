"""Converts Gymnasium's observation spaces to oatmill's, and batches of observations with them.

A Box with one axis becomes a float32 vector, a Box with three axes an image [C, H, W] (see
`image_layout` for the channels' axis), and a Box of uint8 or bool with two axes an image with one
channel. Images keep these two dtypes. Discrete and MultiDiscrete observations become one-hot
vectors, MultiBinary ones a vector. Dict and Tuple are converted in `actors.environments.spaces.dict_spaces`,
actions in `actors.environments.spaces.actions`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from gymnasium import spaces as gym_spaces

from actors.environments.boundary import Raw, RawSpace, in_short
from oatmill.errors import UserError
from protocol.data.spaces import ObservationSpace
from protocol.data.trajectory import Array

Channels = Literal["auto", "first", "last"]
CHANNEL_COUNTS = (1, 3, 4, 12, 16)
"""Grey, RGB, RGBA or a stack of 4 grey frames; stacks of 4 frames in RGB and RGBA."""
MAX_ONE_HOT = 4096


@dataclass(frozen=True)
class ObservationConversion:
    """Converts a batch of an environment's observations to oatmill's format.

    Attributes:
        space: the resulting space.
        raw: the environment's format of one observation.
        convert: converts `[N, *raw.shape]` to `[N, *space.shape]` of `space.dtype`; the result may
            share the input's memory. For a Dict it converts one array per key.
        channels: the axis of an image's channels, "first" or "last"; None for other observations.
    """

    space: ObservationSpace
    raw: Raw
    convert: Callable[[Any], Any]
    channels: str | None = None


def convert_observation_space(space: Any, name: str, channels: Channels = "auto") -> ObservationConversion:
    """Convert a Gymnasium observation space that is no Dict or Tuple.

    Args:
        space: the observation space of one agent.
        name: the environment's name for messages.
        channels: the axis of an image's channels; "auto" derives it from the shape.

    Raises:
        UserError: if oatmill does not support the space, or an image's shape is ambiguous.
    """
    match space:
        case gym_spaces.Box():
            return _box(space, name, channels)
        case gym_spaces.Discrete():
            return one_hot_conversion(np.array([space.n]), np.array([space.start]), space, name)
        case gym_spaces.MultiDiscrete() if len(space.shape) == 1:
            return one_hot_conversion(space.nvec, starts_of(space), space, name)
        case gym_spaces.MultiBinary() if len(space.shape) == 1:
            return _vector(space)
        case _:
            raise UserError(
                f"{name}: expected a Box, Discrete, MultiDiscrete or MultiBinary observation space with one axis, or a Dict or "
                f"Tuple of them and of Text, got {in_short(space)}; {way_out(space)}"
            )


def way_out(space: Any) -> str:
    """What to do about a space that no network reads."""
    where = "in a gymnasium.ObservationWrapper, in the function of env.factory"
    match space:
        case gym_spaces.Text():
            return f"put it into a Dict of one key, {where}"
        case gym_spaces.Sequence():
            return f"pad it to a Box of a fixed length, {where}"
        case gym_spaces.Graph():
            return f"pad nodes and edges to Boxes of a fixed size in a Dict, {where}"
        case gym_spaces.Space():
            return f"convert it to one of them, {where}"
        case _:
            return "set observation_space to an object of gymnasium.spaces"


def raw_space(space: Any) -> RawSpace:
    """The format of one observation of a space, for the checks of `actors.environments.boundary`."""
    shape, dtype = tuple(space.shape), np.dtype(space.dtype)
    match space:
        case gym_spaces.Discrete():
            return RawSpace(str(space), shape, dtype, np.array(space.start), np.array(space.start + space.n - 1))
        case gym_spaces.MultiDiscrete():
            return RawSpace(str(space), shape, dtype, starts_of(space), starts_of(space) + space.nvec - 1)
        case gym_spaces.MultiBinary():
            return RawSpace(str(space), shape, dtype, np.array(0), np.array(1))
        case _:
            return RawSpace(f"a {type(space).__name__} of {dtype} and shape {shape}", shape, dtype)


def starts_of(space: Any) -> Array:
    """The lowest value of each of a MultiDiscrete's choices."""
    return np.asarray(space.start, np.int64)


def image_layout(shape: tuple[int, ...], channels: Channels, name: str) -> Literal["first", "last"]:
    """The axis of an image's channels.

    Args:
        shape: the shape of one image, with three axes.
        channels: the setting; "auto" uses the first or last axis if only its size is one of
            `CHANNEL_COUNTS`.
        name: the environment's name for messages.

    Raises:
        UserError: if both axes or neither could be the channels.
    """
    if channels != "auto":
        return channels
    first, last = shape[0] in CHANNEL_COUNTS, shape[-1] in CHANNEL_COUNTS
    if first != last:
        return "first" if first else "last"
    raise UserError(
        f"{name}: expected an image whose first or last axis has {', '.join(map(str, CHANNEL_COUNTS))} channels, and not both, "
        f"got shape {shape}; set env.channels=first or env.channels=last"
    )


def _box(space: Any, name: str, channels: Channels) -> ObservationConversion:
    if 0 in space.shape:
        raise UserError(f"{name}: expected a Box of at least one number, got shape {space.shape}; correct observation_space")
    match space.shape:
        case (_,):
            return _vector(space)
        case (height, width) if space.dtype in (np.uint8, np.bool_):
            return _image(space, (1, height, width), None, None)
        case (first, second, third):
            layout = image_layout((first, second, third), channels, name)
            if layout == "last":
                return _image(space, (third, first, second), (0, 3, 1, 2), layout)
            return _image(space, (first, second, third), None, layout)
    raise UserError(
        f"{name}: expected a Box with one axis (a vector), three (an image) or two of bytes or bools (a grey image), got shape "
        f"{space.shape} of {space.dtype}; reshape it with gymnasium.wrappers.ReshapeObservation or FlattenObservation, in a "
        f"function named by env.factory"
    )


def _vector(space: Any) -> ObservationConversion:
    def convert(batch: Array) -> Array:
        return batch.astype(np.float32, copy=False)

    out = ObservationSpace("vector", tuple(space.shape), "float32")
    return ObservationConversion(out, raw_space(space), convert)


def _image(space: Any, shape: tuple[int, ...], order: tuple[int, ...] | None, layout: str | None) -> ObservationConversion:
    dtype = np.dtype(space.dtype if space.dtype in (np.uint8, np.bool_) else np.float32)

    def convert(batch: Array) -> Array:
        ordered = batch if order is None else batch.transpose(order)
        return np.ascontiguousarray(ordered.reshape(len(batch), *shape), dtype)

    out = ObservationSpace("image", shape, dtype.name)
    return ObservationConversion(out, raw_space(space), convert, layout)


def one_hot_conversion(sizes: Array, starts: Array, space: Any, name: str, dtype: str = "float32") -> ObservationConversion:
    """One or several choices as a one-hot vector.

    Args:
        sizes: the choices' numbers.
        starts: the lowest of each.
        space: they come from.
        name: the environment's, for messages.
        dtype: of the vector.

    Raises:
        UserError: if the vector would be too long.
    """
    width = int(sizes.sum())
    if width > MAX_ONE_HOT:
        raise UserError(
            f"{name}: expected at most {MAX_ONE_HOT} different values in a {type(space).__name__} observation, got {width}; "
            f"describe the state by a vector, in a function named by env.factory"
        )
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]]) - starts

    def convert(batch: Array) -> Array:
        columns = batch.reshape(len(batch), offsets.size) + offsets
        rows = np.zeros((len(batch), width), dtype)
        np.put_along_axis(rows, columns, 1, axis=1)
        return rows

    out = ObservationSpace("vector", (width,), dtype)
    return ObservationConversion(out, raw_space(space), convert)
