"""Encoders: tokens as a dense grid, as a set, pads that are not read, and the other kinds' shapes."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
import torch
from torch import nn

from agent.encoders import ResidualBlock, make_encoder
from agent.images.pixels import standardised
from agent.settings import AgentSettings
from agent.spec import AgentSpec
from agent.tokens.encoders import TokenCodebook, TokenGridEncoder, without_trailing_pads
from oatmill.errors import UserError
from protocol.data.spaces import ActionSpace, ObservationSpace, Spaces
from protocol.data.trajectory import Array

# Three features: numeric with scale 100, categorical with 4 values, numeric with scale 0 (taken for 1). A window of 3 x 5.
SCALES, CATEGORICAL, CATEGORIES, WINDOW = (100.0, 1.0, 0.0), (1,), 4, (3, 5)
SLOTS = 2 * 3 + CATEGORIES
PLACES = 3 * 5 + 1
PAD = (255, 255, 255)
TOKEN_ENCODERS = ["token_grid", "token_set", "token_attention"]


def token_space(tokens: int = 6) -> ObservationSpace:
    return ObservationSpace("tokens", (tokens, 3), "uint8", SCALES, CATEGORICAL, CATEGORIES, WINDOW)


def encoder_of(kind: str, observation: ObservationSpace | None = None, **settings: object) -> nn.Module:
    spaces = Spaces(observation or token_space(), ActionSpace((2,)))
    torch.manual_seed(0)
    chosen = {"encoder": kind, "hidden_sizes": (7, 5), "token_width": 6} | settings
    return make_encoder(AgentSpec(spaces, AgentSettings.model_validate(chosen)))


def random_tokens(seed: int, rows: int = 20, tokens: int = 6) -> torch.Tensor:
    """Rows filled from the front, the rest pads; some tokens have no place (254)."""
    rng = np.random.default_rng(seed)
    observations = np.full((rows, tokens, 3), 255, np.uint8)
    for row in range(rows):
        for token in range(rng.integers(0, tokens + 1)):
            place = 254 if rng.random() < 0.3 else 16 * rng.integers(0, 3) + rng.integers(0, 5)
            observations[row, token] = (place, rng.integers(0, 3), rng.integers(0, 256))
    return torch.from_numpy(observations)


def dense_grid(observations: torch.Tensor) -> Array:
    """Every token written into a (place, slot) picture, one at a time."""
    grid = np.zeros((len(observations), PLACES, SLOTS))
    for row, tokens in enumerate(observations.tolist()):
        for location, feature, value in tokens:
            if location == 255:
                continue
            place = PLACES - 1 if location == 254 else (location // 16) * 5 + location % 16
            if feature in CATEGORICAL:
                grid[row, place, 2 * 3 + min(value, CATEGORIES - 1)] += 1
            else:
                grid[row, place, 2 * feature] += 1
                grid[row, place, 2 * feature + 1] += log(1 + value) / log(1 + max(SCALES[feature], 1))
    return grid


def test_the_token_grid_is_the_linear_map_of_the_dense_picture() -> None:
    encoder = encoder_of("token_grid")
    assert isinstance(encoder, TokenGridEncoder)
    observations = random_tokens(0)
    grid = torch.from_numpy(dense_grid(observations)).float().flatten(1)
    expected = encoder.layers(torch.tanh(grid @ encoder.table.weight + encoder.bias))
    torch.testing.assert_close(encoder(observations), expected, atol=1e-5, rtol=1e-5)


def test_the_gradient_of_the_token_grid_is_the_dense_pictures() -> None:
    encoder = encoder_of("token_grid")
    assert isinstance(encoder, TokenGridEncoder)
    observations = random_tokens(1)
    (sparse,) = torch.autograd.grad(encoder(observations).square().sum(), encoder.table.weight)
    grid = torch.from_numpy(dense_grid(observations)).float().flatten(1)
    output = encoder.layers(torch.tanh(grid @ encoder.table.weight + encoder.bias))
    (dense,) = torch.autograd.grad(output.square().sum(), encoder.table.weight)
    torch.testing.assert_close(sparse, dense, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", TOKEN_ENCODERS)
def test_the_order_of_tokens_does_not_matter(kind: str) -> None:
    encoder, observations = encoder_of(kind), random_tokens(2)
    shuffled = observations[:, torch.randperm(6, generator=torch.Generator().manual_seed(0))]
    torch.testing.assert_close(encoder(shuffled), encoder(observations), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", TOKEN_ENCODERS)
def test_pads_are_not_read_whatever_they_hold_and_however_many_there_are(kind: str) -> None:
    encoder, observations = encoder_of(kind), random_tokens(3)
    more = torch.cat([observations, torch.full((20, 9, 3), 255, dtype=torch.uint8)], 1)
    torch.testing.assert_close(encoder(more), encoder(observations), atol=1e-6, rtol=1e-5)
    pads = observations[..., 0] == 255
    other = observations.clone()
    other[..., 1:][pads] = 1
    torch.testing.assert_close(encoder(other), encoder(observations), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", TOKEN_ENCODERS)
def test_a_row_does_not_depend_on_other_rows(kind: str) -> None:
    encoder, observations = encoder_of(kind), random_tokens(4)
    alone = torch.cat([encoder(observations[row : row + 1]) for row in range(20)])
    torch.testing.assert_close(alone, encoder(observations), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", TOKEN_ENCODERS)
def test_an_observation_of_pads_alone_is_finite_and_has_finite_gradients(kind: str) -> None:
    encoder = encoder_of(kind)
    output = encoder(torch.full((2, 6, 3), 255, dtype=torch.uint8))
    assert torch.isfinite(output).all()
    torch.autograd.backward(output.sum())
    assert all(torch.isfinite(parameter.grad).all() for parameter in encoder.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("kind", TOKEN_ENCODERS)
def test_every_parameter_of_an_encoder_is_used(kind: str) -> None:
    encoder = encoder_of(kind)
    torch.autograd.backward(encoder(random_tokens(5)).sum())
    assert all(parameter.grad is not None for parameter in encoder.parameters())


@pytest.mark.parametrize("kind", TOKEN_ENCODERS)
def test_place_feature_and_value_all_tell_observations_apart(kind: str) -> None:
    encoder = encoder_of(kind)
    tokens = ((0x12, 0, 7), (0x11, 0, 7), (0x02, 0, 7), (254, 0, 7), (0x12, 2, 7), (0x12, 0, 8), (0x12, 1, 0), (0x12, 1, 3))
    outputs = [encoder(torch.tensor([[token]], dtype=torch.uint8)) for token in tokens]
    for first in range(len(outputs)):
        for second in range(first):
            assert (outputs[first] - outputs[second]).abs().max() > 1e-6, (first, second)


def test_the_code_books_tables_by_hand() -> None:
    first, weight, second = TokenCodebook(token_space()).lookup_tables()
    # Feature 0, value 100 of scale 100: slots 0 and 1, weight 1. Feature 1, value 2: slot 6 + 2, and value 200, beyond the
    # categories, the last of them. Feature 2, value 3: slots 4 and 5, weight log 4 / log 2.
    keys = [100, 256 + 2, 256 + 200, 512 + 3]
    assert first[keys].tolist() == [0, 8, 9, 4]
    assert second[keys].tolist() == [1, 8, 9, 5]
    assert weight[keys].tolist() == [pytest.approx(1.0), 0, 0, pytest.approx(2.0)]


def test_each_categorical_feature_has_slots_of_its_own() -> None:
    # Features 0 and 2 are categorical with 4 values each: after the 2 * 3 numeric slots come 6..9 and 10..13.
    codebook = TokenCodebook(ObservationSpace("tokens", (6, 3), "uint8", SCALES, (0, 2), CATEGORIES, WINDOW))
    first, _, _ = codebook.lookup_tables()
    assert codebook.slots == 14
    assert first[[0, 3, 256, 512, 512 + 3]].tolist() == [6, 9, 2, 10, 13]


def test_places_are_row_by_row_within_the_window_and_one_for_all_others() -> None:
    place = TokenCodebook(token_space()).place_table()
    assert [int(place[location]) for location in (0x00, 0x04, 0x10, 0x24)] == [0, 4, 5, 14]
    assert [int(place[location]) for location in (254, 255, 0x05, 0x30)] == [15, 15, 15, 15]


def test_columns_of_pads_alone_are_cut_and_one_is_always_left() -> None:
    tokens = torch.tensor([[(1, 0, 0), PAD, PAD, PAD], [PAD, PAD, (2, 0, 0), PAD]], dtype=torch.uint8)
    assert without_trailing_pads(tokens).shape == (2, 3, 3)
    assert without_trailing_pads(tokens[:, 3:]).shape == (2, 1, 3)


def test_vectors_go_through_dense_layers_with_the_asked_activation() -> None:
    space = ObservationSpace("vector", (3,), "float32")
    x = torch.randn(4, 3)
    for name, function in (("tanh", torch.tanh), ("relu", torch.relu)):
        encoder = encoder_of("mlp", space, activation=name)
        first, second = (module for module in encoder.modules() if isinstance(module, nn.Linear))
        torch.testing.assert_close(encoder(x), function(second(function(first(x)))))
        torch.testing.assert_close(encoder(x.double()), encoder(x))


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 5), (1, 1)])
def test_images_of_any_size_have_the_asked_width(height: int, width: int) -> None:
    space = ObservationSpace("image", (3, height, width), "uint8")
    encoder = encoder_of("cnn", space)
    images = torch.randint(256, (2, 3, height, width), dtype=torch.uint8)
    assert encoder(images).shape == (2, 5)
    torch.autograd.backward(encoder(images).sum())
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_a_residual_block_adds_its_input() -> None:
    torch.manual_seed(0)
    block, x = ResidualBlock(3), torch.randn(2, 3, 4, 4)
    expected = x + block.second(torch.relu(block.first(torch.relu(x))))
    torch.testing.assert_close(block(x), expected)
    for parameter in block.second.parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(block(x), x)


def test_bytes_are_scaled_to_0_to_1_and_floats_are_not() -> None:
    of_bytes = encoder_of("cnn", ObservationSpace("image", (1, 4, 4), "uint8"))
    of_floats = encoder_of("cnn", ObservationSpace("image", (1, 4, 4), "float32"))
    of_floats.load_state_dict(of_bytes.state_dict())
    images = torch.randint(256, (2, 1, 4, 4), dtype=torch.uint8)
    torch.testing.assert_close(of_bytes(images), of_floats(images.float() / 255), atol=1e-6, rtol=1e-5)


def test_the_nature_encoder_is_three_convolutions_and_scales_bytes() -> None:
    space = ObservationSpace("image", (4, 84, 84), "uint8")
    encoder = encoder_of("nature", space)
    assert encoder(torch.zeros(2, 4, 84, 84, dtype=torch.uint8)).shape == (2, 5)
    # 84 -> (84 - 8) / 4 + 1 = 20 -> (20 - 4) / 2 + 1 = 9 -> 9 - 3 + 1 = 7 places each way, of 64 channels.
    widths = [layer.in_features for layer in encoder.modules() if isinstance(layer, nn.Linear)]
    assert widths == [7 * 7 * 64, 7]
    as_floats = encoder_of("nature", ObservationSpace("image", (4, 84, 84), "float32"))
    frames = torch.randint(0, 256, (2, 4, 84, 84), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert torch.allclose(encoder(frames), as_floats(frames.float() / 255), atol=1e-5)


def test_the_nature_encoder_refuses_what_its_convolutions_do_not_fit_on() -> None:
    assert encoder_of("nature", ObservationSpace("image", (1, 36, 40), "uint8")) is not None
    with pytest.raises(
        UserError, match=r"agent\.encoder=nature reads images of at least 36x36, got 35x40; use agent.encoder=cnn$"
    ):
        encoder_of("nature", ObservationSpace("image", (1, 35, 40), "uint8"))


def test_the_token_grid_is_the_same_with_pads_left_out_and_with_pads_of_weight_0() -> None:
    encoder = encoder_of("token_grid")
    observations = random_tokens(6)
    observations[3] = 255  # a row of pads only
    assert isinstance(encoder, TokenGridEncoder)
    sparse = encoder(observations)
    with torch.no_grad():
        dense = encoder(observations)
    assert sparse.requires_grad, "the first one took the way that trains"
    torch.testing.assert_close(sparse.detach(), dense, rtol=1e-6, atol=1e-6)


def test_the_nature_encoder_sees_what_stands_out_of_the_background_whatever_its_brightness() -> None:
    encoder = encoder_of("nature", ObservationSpace("image", (1, 40, 40), "uint8"))
    frames = torch.full((3, 1, 40, 40), 90, dtype=torch.uint8)
    frames[0, 0, 10, 10] = frames[1, 0, 30, 30] = 200
    brighter = frames + 50
    torch.testing.assert_close(encoder(brighter), encoder(frames), atol=0.02, rtol=0.02)
    assert (encoder(frames)[0] - encoder(frames)[1]).abs().max() > 0.1


def test_images_are_standardised_one_by_one() -> None:
    images = torch.tensor([[0.0, 0.0, 0.0, 4.0], [7.0, 7.0, 7.0, 7.0]]).reshape(2, 1, 2, 2)
    # Mean 1, standard deviation sqrt((3 * 1 + 9) / 4) = sqrt(3).
    root = 3**0.5 + 1e-3
    expected = torch.tensor([[-1 / root, -1 / root, -1 / root, 3 / root], [0.0, 0.0, 0.0, 0.0]]).reshape(2, 1, 2, 2)
    before = images.clone()
    torch.testing.assert_close(standardised(images), expected)
    assert torch.equal(images, before), "a batch is read in every epoch"


def test_standardised_bytes_are_those_of_the_plain_formula_in_float64() -> None:
    images = torch.randint(0, 256, (6, 4, 84, 84), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images[1], images[2, :, 5:] = 90, 87
    wide = images.double() / 255
    spread, mean = torch.std_mean(wide, (1, 2, 3), correction=0, keepdim=True)
    expected = (wide - mean) / (spread + 1e-3)
    torch.testing.assert_close(standardised(images, 1 / 255).double(), expected, atol=1e-4, rtol=1e-5)
    backwards = images.permute(0, 1, 3, 2)  # not contiguous
    # The order in which 28,224 squares are summed up differs, in float32.
    same = standardised(images, 1 / 255).permute(0, 1, 3, 2)
    torch.testing.assert_close(standardised(backwards, 1 / 255), same, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("height", "width", "inputs"),
    [
        # 64 -> (64 - 8) / 4 + 1 = 15 -> (15 - 4) / 2 + 1 = 6 places each way, of 32 channels.
        (64, 64, 6 * 6 * 32),
        (36, 50, 3 * 4 * 32),
        # 20 -> (20 - 4) / 2 + 1 = 9 -> (9 - 4) / 2 + 1 = 3.
        (20, 20, 3 * 3 * 32),
        (10, 10, 8 * 8 * 16),
        (1, 2, 1 * 2 * 16),
    ],
)
def test_the_small_encoder_has_convolutions_for_every_size(height: int, width: int, inputs: int) -> None:
    encoder = encoder_of("small_cnn", ObservationSpace("image", (3, height, width), "uint8"))
    assert encoder(torch.zeros(2, 3, height, width, dtype=torch.uint8)).shape == (2, 5)
    assert [layer.in_features for layer in encoder.modules() if isinstance(layer, nn.Linear)] == [inputs, 7]
