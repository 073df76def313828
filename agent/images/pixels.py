"""Pixels as the first convolution reads them: standardised, and in the order in memory that is fast."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

STD_FLOOR = 1e-3
PART_BYTES = 2**21
"""Images are standardised in parts of about this many bytes of float32, which the processor's cache holds."""
BLOCK = 4
"""Side of a block of `blocks_of`: four bytes side by side are moved as one 32-bit number."""
OWN_KERNEL_CHANNELS = 3


def standardised(images: Tensor, scale: float = 1.0) -> Tensor:
    """Scale each image to mean 0 and standard deviation 1 over channels and pixels.

    An image of a single colour becomes 0. The copy to float32 is changed in place, and the deviation is
    the norm of what is left: `torch.std_mean` and new arrays for each step took five times as long.

    Args:
        images: `[N, ...]`, of any dtype; left as they are.
        scale: the unit of a pixel, which the floor of the deviation is compared with.

    Returns:
        float32, in the shape of `images`.
    """
    pixels = images.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    flat = pixels.flatten(1)  # a view
    flat -= flat.mean(1, keepdim=True)
    deviation = torch.linalg.vector_norm(flat, dim=1, keepdim=True) * (scale / sqrt(flat.shape[1]))
    flat *= scale / (deviation + STD_FLOOR)
    return pixels


def standardised_in_parts(images: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """The same in parts that stay in the processor's cache, as `dtype`."""
    target = torch.empty(images.shape, dtype=dtype)
    rows = max(1, PART_BYTES // (4 * images[:1].numel()))
    for start in range(0, len(images), rows):
        target[start : start + rows] = standardised(images[start : start + rows], scale)
    return target


def blocks_of(images: Tensor) -> Tensor:
    """Move the bytes of each 4x4 block of pixels next to each other.

    Args:
        images: uint8 `[N, C, H, W]`; height and width are multiples of 4.

    Returns:
        uint8 `[N, H / 4, W / 4, C * 16]`. The last axis is channel, row within the block, column within it.
    """
    count, channels, height, width = images.shape
    words = images.contiguous().view(torch.int32).view(count, channels, height // BLOCK, BLOCK, width // BLOCK)
    moved = words.permute(0, 2, 4, 1, 3).contiguous()
    return moved.view(torch.uint8).view(count, height // BLOCK, width // BLOCK, channels * BLOCK**2)


def convolve_blocks(convolution: nn.Module, blocks: Tensor) -> Tensor:
    """What a convolution of stride 4 gives for the images of `blocks`, in the memory format channels_last.

    It is computed as a convolution of stride 1 over the blocks: each place reads a few long rows of memory
    instead of many short ones.

    Args:
        convolution: an `nn.Conv2d` whose kernel's sides are multiples of 4.
        blocks: `[N, H / 4, W / 4, C * 16]`, in the order of `blocks_of`.

    Returns:
        `[N, channels, height, width]`.
    """
    assert isinstance(convolution, nn.Conv2d)
    outputs, channels, height, width = convolution.weight.shape
    split = convolution.weight.view(outputs, channels, height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    weight = split.permute(0, 1, 3, 5, 2, 4).reshape(outputs, channels * BLOCK**2, height // BLOCK, width // BLOCK)
    return conv2d(blocks.permute(0, 3, 1, 2), weight, convolution.bias)


def gains_from_channels_last(images: Tensor) -> bool:
    """Whether convolutions with stride 4 over these images are faster in the memory format channels_last.

    They are on a CPU in bfloat16, and where gradients are computed in float32. But oneDNN has its own
    kernels for float32 images of up to three channels. A network is compiled, and exported
    by `torch.export`, as it is; it is traced without gradients.
    """
    if images.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return torch.is_autocast_enabled("cpu") or (torch.is_grad_enabled() and images.shape[1] > OWN_KERNEL_CHANNELS)


def autocast_dtype() -> torch.dtype:
    """The dtype that convolutions on the CPU are computed in."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
