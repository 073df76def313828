"""Blocks of pixels, and that an encoder gives the same numbers in every order in memory."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from agent.encoders import NatureEncoder, SmallEncoder
from agent.images.pixels import PART_BYTES, blocks_of, convolve_blocks, standardised, standardised_in_parts


def random_bytes(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_blocks_hold_channel_row_and_column_within_the_block() -> None:
    images = random_bytes(2, 3, 8, 12)
    blocks = blocks_of(images)
    assert blocks.shape == (2, 2, 3, 48)
    # Channel 2, row 1 * 4 + 3, column 2 * 4 + 1: block (1, 2), entry 2 * 16 + 3 * 4 + 1.
    assert torch.equal(blocks[:, 1, 2, 45], images[:, 2, 7, 9])
    backwards = images.transpose(2, 3)  # not contiguous
    assert torch.equal(blocks_of(backwards), blocks_of(backwards.contiguous()))


def test_a_convolution_of_blocks_is_that_of_the_images() -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 5, 8, 4)
    images = random_bytes(2, 3, 16, 24)
    given = convolve_blocks(convolution, blocks_of(images).float())
    expected = convolution(images.float())
    torch.testing.assert_close(given, expected, atol=1e-2, rtol=1e-5)
    found, wanted = (torch.autograd.grad(out.square().mean(), convolution.weight)[0] for out in (given, expected))
    torch.testing.assert_close(found, wanted, atol=1.0, rtol=1e-4)


def test_images_in_parts_are_standardised_one_by_one() -> None:
    images = random_bytes(70, 1, 100, 100)
    assert images.numel() * 4 > PART_BYTES, "several parts"
    assert torch.equal(standardised_in_parts(images, 1 / 255, torch.float32), standardised(images, 1 / 255))


@pytest.mark.parametrize("kind", [NatureEncoder, SmallEncoder])
@pytest.mark.parametrize("shape", [(4, 84, 84), (4, 42, 42), (3, 64, 64)])
def test_training_gives_the_outputs_and_gradients_of_plain_convolutions(
    kind: type[NatureEncoder | SmallEncoder], shape: Sequence[int]
) -> None:
    torch.manual_seed(0)
    encoder = kind(shape, (16,), nn.ReLU, uint8=True)
    images = random_bytes(3, *shape)
    plain = encoder.layers(encoder.convolutions(standardised(images, 1 / 255)).flatten(1))
    trained = encoder(images)
    torch.testing.assert_close(trained, plain, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        assert torch.equal(encoder(images), plain), "acting takes the plain way"
    parameters = list(encoder.parameters())
    found, wanted = (torch.autograd.grad(out.square().mean(), parameters) for out in (trained, plain))
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-3)


def test_training_in_bfloat16_stays_close_to_float32() -> None:
    torch.manual_seed(0)
    encoder = NatureEncoder((4, 84, 84), (64,), nn.ReLU, uint8=True)
    images = random_bytes(8, 4, 84, 84)
    target = torch.randn(8, 64)
    gradients = []
    for half in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            encoded = encoder(images).float()
        gradients.append(torch.autograd.grad((encoded - target).square().mean(), list(encoder.parameters())))
    for one, other in zip(*gradients, strict=True):
        assert one.dtype == other.dtype == torch.float32
        assert torch.cosine_similarity(one.flatten(), other.flatten(), 0) > 0.995
        assert 0.97 < other.norm() / one.norm() < 1.03
