"""From Gymnasium's Dict and Tuple observation spaces to one space a key, nested ones by their path."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
from gymnasium import spaces as gym_spaces

from actors.environments.boundary import in_short
from actors.environments.spaces.action_masks import raw_mask
from actors.environments.spaces.observations import (
    Channels,
    ObservationConversion,
    convert_observation_space,
    one_hot_conversion,
    raw_space,
    starts_of,
    way_out,
)
from actors.environments.spaces.raw_dict import RawDict, Structure
from actors.environments.spaces.text import raw_text
from oatmill.errors import UserError
from protocol.data.observations import ObservationDict
from protocol.data.spaces import ACTION_MASK, DictSpace, ObservationSpace
from protocol.data.trajectory import Array

SEPARATOR = "/"
IMAGE_AXES = 3
Known = Mapping[str, ObservationConversion]


def convert_space(space: Any, name: str, channels: Channels = "auto", known: Known | None = None) -> ObservationConversion:
    """Read any observation space; the arguments and errors are those of `convert_dict_space`."""
    if _keys(space) is None:
        return convert_observation_space(space, name, channels)
    return convert_dict_space(space, name, channels, known)


def convert_dict_space(space: Any, name: str, channels: Channels = "auto", known: Known | None = None) -> ObservationConversion:
    """Read a Dict or Tuple space.

    Args:
        space: of one agent.
        name: the environment's, for messages.
        channels: which axis of images holds the channels.
        known: conversions of keys that an adapter knows more of than their space says.

    Raises:
        UserError: if a key cannot be converted, two have the same path, or there is none beside the mask.
    """
    reader = _Reader(f"{name}: observation", channels, known or {})
    structure, found = reader.read(space, ""), reader.found
    if not found:
        raise UserError(f"{name}: expected at least one key in the observation, got {in_short(space)}; add one, such as a Box")
    if all(path == ACTION_MASK for path in found):
        raise UserError(f"{name}: expected another key besides {ACTION_MASK} in the observation, got {in_short(space)}")

    def convert(observations: Any) -> Any:
        return ObservationDict({path: part.convert(observations[path]) for path, part in found.items()})

    layouts = {path: part.channels for path, part in found.items() if part.channels}
    said = ", ".join(dict.fromkeys(layouts.values())) if len(set(layouts.values())) < 2 else _said(layouts)  # noqa: PLR2004
    return ObservationConversion(
        DictSpace.of({path: part.space for path, part in found.items()}),
        RawDict(structure, {path: part.raw for path, part in found.items()}),
        convert,
        said or None,
    )


def _said(layouts: Mapping[str, str]) -> str:
    return ", ".join(f"{path}: {layout}" for path, layout in layouts.items())


class _Reader:
    """Collects the conversions of the innermost keys by path."""

    def __init__(self, name: str, channels: Channels, known: Known) -> None:
        self.found: dict[str, ObservationConversion] = {}
        self._name, self._channels, self._known = name, channels, known

    def read(self, space: Any, path: str) -> Structure:
        """How the keys below a path are nested; each innermost one's conversion goes into `found`."""
        keys = _keys(space) if path != ACTION_MASK else None
        if keys is None:
            if path in self.found:
                raise UserError(f"{self._name} has two keys {path}; rename one, or take {SEPARATOR} out of its name")
            self.found[path] = self._known.get(path) or _part(space, path, f"{self._name} key {path}", self._channels)
            return path
        inner = {key: self.read(part, f"{path}{SEPARATOR}{key}" if path else str(key)) for key, part in keys.items()}
        return tuple(inner.values()) if isinstance(space, gym_spaces.Tuple) else inner


def _keys(space: Any) -> dict[Any, Any] | None:
    match space:
        case gym_spaces.Dict():
            return dict(space.spaces)
        case gym_spaces.Tuple():
            return dict(enumerate(space.spaces))
        case _:
            return None


def _part(space: Any, path: str, name: str, channels: Channels) -> ObservationConversion:
    if path == ACTION_MASK:
        return _mask(space)
    match space:
        case gym_spaces.Box():
            is_image = len(space.shape) == IMAGE_AXES or (len(space.shape) == 2 and space.dtype in (np.uint8, np.bool_))  # noqa: PLR2004
            return convert_observation_space(space, name, channels) if is_image else _flat(space)
        case gym_spaces.Discrete():
            return one_hot_conversion(np.array([space.n]), np.array([space.start]), space, name, "bool")
        case gym_spaces.MultiDiscrete():
            return one_hot_conversion(space.nvec.ravel(), starts_of(space).ravel(), space, name, "bool")
        case gym_spaces.MultiBinary():
            return _flat(space, "bool")
        case _ if space.dtype is not None and np.dtype(space.dtype).kind == "U":  # Text, and MiniGrid's missions
            raw = raw_text()
            return ObservationConversion(ObservationSpace("vector", raw.shape, raw.dtype.name), raw, lambda batch: batch)
        case _:
            raise UserError(
                f"{name}: expected a Box, Discrete, MultiDiscrete, MultiBinary or Text space, got {in_short(space)}; "
                f"{way_out(space)}"
            )


def _flat(space: Any, dtype: str | None = None) -> ObservationConversion:
    """Any array as a vector; bytes and bools stay what they are."""
    kept = dtype or (space.dtype.name if space.dtype in (np.uint8, np.bool_) else "float32")
    width = prod(space.shape)

    def convert(batch: Array) -> Array:
        return batch.reshape(len(batch), width).astype(kept, copy=False)

    return ObservationConversion(ObservationSpace("vector", (width,), kept), raw_space(space), convert)


def _mask(space: Any) -> ObservationConversion:
    keys = _keys(space)
    choices = sum(prod(part.shape) for part in keys.values()) if keys is not None else prod(space.shape)

    def convert(batch: Array) -> Array:
        return batch.view(np.bool_)

    return ObservationConversion(ObservationSpace("mask", (choices,), "bool"), raw_mask(choices), convert)
