from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from actors.environments.spaces.observations import Channels, convert_observation_space
from agent.encoders import ImageEncoder, make_encoder
from agent.settings import AgentSettings
from agent.spec import AgentSpec
from oatmill.errors import UserError
from protocol.data.spaces import ActionSpace, ObservationSpace, Spaces


def test_a_box_with_one_axis_becomes_a_float32_vector() -> None:
    conversion = convert_observation_space(spaces.Box(-1, 1, (2,), np.float64), "toy")
    assert conversion.space == ObservationSpace("vector", (2,), "float32")
    converted = conversion.convert(np.array([[0.5, -0.25]]))
    assert converted.dtype == np.float32
    assert converted.tolist() == [[0.5, -0.25]]


def test_a_float32_vector_is_not_copied() -> None:
    batch = np.zeros((2, 3), np.float32)
    assert convert_observation_space(spaces.Box(-1, 1, (3,), np.float32), "toy").convert(batch) is batch


def test_a_picture_with_channels_last_has_them_moved_to_the_front() -> None:
    conversion = convert_observation_space(spaces.Box(0, 255, (5, 4, 3), np.uint8), "toy")
    assert conversion.space == ObservationSpace("image", (3, 5, 4), "uint8")
    batch = np.arange(2 * 5 * 4 * 3, dtype=np.uint8).reshape(2, 5, 4, 3)
    converted = conversion.convert(batch)
    # Row 1, column 2, channel 0 of picture 1 lies at 60 + (1 * 4 + 2) * 3 = 78.
    assert converted[1, 0, 1, 2] == 78
    assert converted.flags.c_contiguous


@pytest.mark.parametrize(
    ("shape", "channels", "expected", "layout"),
    [
        ((4, 84, 80), "auto", (4, 84, 80), "first"),
        ((84, 80, 4), "auto", (4, 84, 80), "last"),
        ((84, 80, 12), "auto", (12, 84, 80), "last"),
        ((12, 84, 80), "auto", (12, 84, 80), "first"),
        ((16, 5, 4), "first", (16, 5, 4), "first"),
        ((16, 5, 4), "last", (4, 16, 5), "last"),
        ((10, 9, 6), "last", (6, 10, 9), "last"),
    ],
)
def test_the_axis_of_the_channels_is_the_one_that_can_be_or_the_one_that_is_said(
    shape: tuple[int, ...], channels: Channels, expected: tuple[int, ...], layout: str
) -> None:
    conversion = convert_observation_space(spaces.Box(0, 255, shape, np.uint8), "toy", channels)
    assert (conversion.space.shape, conversion.channels) == (expected, layout)
    assert conversion.convert(np.zeros((2, *shape), np.uint8)).shape == (2, *expected)


@pytest.mark.parametrize("shape", [(16, 4, 4), (10, 10, 6), (9, 8, 7), (3, 3, 3)])
def test_an_image_whose_shape_does_not_tell_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"^toy: expected an image whose .*; set env\.channels=first or env\.channels=last$"):
        convert_observation_space(spaces.Box(0, 255, shape, np.uint8), "toy")


def test_a_grey_picture_of_bytes_gets_one_channel_and_other_numbers_become_float32() -> None:
    grey = convert_observation_space(spaces.Box(0, 255, (5, 4), np.uint8), "toy")
    assert grey.space == ObservationSpace("image", (1, 5, 4), "uint8")
    double = convert_observation_space(spaces.Box(0, 1, (5, 4, 3), np.float64), "toy")
    assert double.space == ObservationSpace("image", (3, 5, 4), "float32")
    assert double.convert(np.zeros((1, 5, 4, 3))).dtype == np.float32


def test_discrete_observations_become_one_hot_vectors() -> None:
    conversion = convert_observation_space(spaces.Discrete(3, start=5), "toy")
    assert conversion.space == ObservationSpace("vector", (3,), "float32")
    assert conversion.convert(np.array([5, 7])).tolist() == [[1, 0, 0], [0, 0, 1]]
    assert conversion.convert(np.zeros(0, np.int64)).shape == (0, 3)


def test_several_discrete_observations_become_one_vector_of_one_hots() -> None:
    conversion = convert_observation_space(spaces.MultiDiscrete([2, 3]), "toy")
    assert conversion.convert(np.array([[1, 2], [0, 0]])).tolist() == [[0, 1, 0, 0, 1], [1, 0, 1, 0, 0]]


def test_a_binary_observation_becomes_a_vector() -> None:
    conversion = convert_observation_space(spaces.MultiBinary(2), "toy")
    assert conversion.convert(np.array([[1, 0]], np.int8)).tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize(("shape", "read"), [((5, 4, 3), (3, 5, 4)), ((5, 4), (1, 5, 4))])
def test_images_of_bools_travel_as_bytes_and_are_not_scaled(shape: tuple[int, ...], read: tuple[int, ...]) -> None:
    conversion = convert_observation_space(spaces.Box(0, 1, shape, np.bool_), "toy", "last")
    assert conversion.space == ObservationSpace("image", read, "bool")
    batch = np.zeros((2, *shape), np.bool_)
    batch[1] = True
    assert conversion.convert(batch).dtype == np.bool_
    assert conversion.convert(batch).reshape(2, -1).all(1).tolist() == [False, True]
    encoder = make_encoder(AgentSpec(Spaces(conversion.space, ActionSpace((2,))), AgentSettings(hidden_sizes=(4,))))
    assert isinstance(encoder, ImageEncoder)
    assert encoder.scale == 1  # bytes of pixels are divided by 255


@pytest.mark.parametrize(
    ("space", "says"),
    [
        (spaces.Box(0, 1, (2, 2), np.float32), "got shape (2, 2) of float32; reshape it"),
        (spaces.Box(0, 1, (2, 2, 2, 2), np.float32), "got shape (2, 2, 2, 2)"),
        (spaces.Box(0, 1, (), np.float32), "got shape ()"),
        (spaces.Text(3), "got Text"),
        (spaces.Discrete(5000), "at most 4096 different values in a Discrete observation, got 5000"),
    ],
)
def test_other_observations_are_refused_with_the_way_out(space: Any, says: str) -> None:
    with pytest.raises(UserError) as caught:
        convert_observation_space(space, "env.id=Toy-v0")
    message = str(caught.value)
    assert message.startswith("env.id=Toy-v0: expected ")
    assert says in message
    assert "\n" not in message
