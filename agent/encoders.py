"""Encoders map observations `[N, ...]`, in the environment's dtype, to vectors `[N, width]`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import sqrt

import torch
from torch import Tensor, nn

from agent.dict_encoder import DictEncoder, KeyEncoder
from agent.heads import dense_layers, orthogonal_init
from agent.images.pixels import (
    BLOCK,
    autocast_dtype,
    blocks_of,
    convolve_blocks,
    gains_from_channels_last,
    standardised,
    standardised_in_parts,
)
from agent.own_encoder import make_own_encoder
from agent.settings import AgentSettings
from agent.spec import JOINED, AgentSpec
from agent.tokens.encoders import TokenCodebook, TokenGridEncoder, TokenSetEncoder
from oatmill.errors import UserError

CNN_CHANNELS = (16, 32, 32)
NATURE_LAYERS = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
"""Channels, kernel size and stride of each convolution."""
SMALL_LAYERS = ((16, 8, 4), (32, 4, 2))
"""The same of small_cnn, for images of at least `NATURE_SMALLEST`."""
SMALL_LAYERS_OF_16 = ((16, 4, 2), (32, 4, 2))
"""The same, for images of at least 16x16; smaller ones get one convolution of 3x3 places."""
NATURE_SMALLEST = 36
"""The smallest height and width: the last convolution's output is 1x1."""


def make_trunk_encoder(spec: AgentSpec) -> nn.Module:
    """Build the trunk's encoder, or a `TwinEncoder` if policy and value have separate ones.

    Raises:
        UserError: see `make_encoder`.
    """
    if spec.settings.value_trunk == "shared":
        return make_encoder(spec)
    return TwinEncoder(make_encoder(spec), make_encoder(spec))


def make_encoder(spec: AgentSpec) -> nn.Module:
    """Build a spec's encoder; its output width is the last entry of `hidden_sizes`.

    Raises:
        UserError: if the encoder does not fit the observations, or the user's own encoder is invalid.
    """
    if spec.several:
        return make_own_encoder(spec) if spec.settings.own_encoder else make_dict_encoder(spec)
    path, space = next(iter(spec.seen.items()))
    alone = replace(spec, spaces=replace(spec.spaces, observation=space))
    encoder = make_own_encoder(alone) if spec.settings.own_encoder else make_part_encoder(alone, "", spec.settings.hidden_sizes)
    return KeyEncoder(path, encoder) if path else encoder


def make_dict_encoder(spec: AgentSpec) -> DictEncoder:
    """An encoder for each key, and the layers that join them."""
    hidden_sizes = spec.settings.hidden_sizes
    vectors = {path: part.shape[0] for path, part in spec.seen.items() if spec.encoder_of(path) == JOINED}
    encoders = {path: make_part_encoder(spec, path, hidden_sizes[:1]) for path in spec.seen if path not in vectors}
    inputs = sum(vectors.values()) + len(encoders) * hidden_sizes[0]
    return DictEncoder(list(vectors), encoders, dense_layers((inputs, *hidden_sizes), activation_of(spec.settings)))


def make_part_encoder(spec: AgentSpec, path: str, hidden_sizes: Sequence[int]) -> nn.Module:
    """The encoder of one key, or of the whole of a plain observation.

    Args:
        spec: the network's.
        path: of the key.
        hidden_sizes: widths of its dense layers.
    """
    observation, name, activation = spec.seen[path], spec.encoder_of(path), activation_of(spec.settings)
    if name == "mlp":
        return VectorEncoder(observation.shape[0], hidden_sizes, activation)
    image = IMAGE_ENCODERS.get(name)
    if image is not None:
        return image(observation.shape, hidden_sizes, activation, uint8=observation.dtype == "uint8")
    codebook = TokenCodebook(observation)
    if name == "token_grid":
        return TokenGridEncoder(codebook, hidden_sizes, activation)
    attention = name == "token_attention"
    return TokenSetEncoder(codebook, spec.settings.token_width, hidden_sizes, activation, attention=attention)


def activation_of(settings: AgentSettings) -> type[nn.Module]:
    """The dense layers' activation."""
    return nn.Tanh if settings.activation == "tanh" else nn.ReLU


class TwinEncoder(nn.Module):
    """Two encoders of equal width read the same observations; their outputs are concatenated."""

    def __init__(self, policy: nn.Module, value: nn.Module) -> None:
        super().__init__()
        self.policy = policy
        self.value = value

    def forward(self, observations: Tensor) -> Tensor:
        """`[N, ...]` to `[N, 2 * width]`: first the policy's columns, then the value's."""
        return torch.cat([self.policy(observations), self.value(observations)], -1)


class VectorEncoder(nn.Module):
    """Dense layers."""

    def __init__(self, inputs: int, hidden_sizes: Sequence[int], activation: type[nn.Module]) -> None:
        super().__init__()
        self.layers = dense_layers((inputs, *hidden_sizes), activation)

    def forward(self, observations: Tensor) -> Tensor:
        """`[N, D]` to `[N, width]`."""
        encoded: Tensor = self.layers(observations.float())
        return encoded


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a skip connection (Espeholt et al. 2018, figure 3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]` to the same shape."""
        out: Tensor = x + self.second(torch.relu(self.first(torch.relu(x))))
        return out


class ImageEncoder(nn.Module):
    """IMPALA's residual network.

    Three stages of a convolution, max pooling and two residual blocks, followed by dense layers.

    Attributes:
        large: whether the convolutions are large enough for several threads.
        gains_from_bfloat16: whether a CPU with bfloat16 in hardware trains them faster in it.
    """

    def __init__(self, shape: Sequence[int], hidden_sizes: Sequence[int], activation: type[nn.Module], *, uint8: bool) -> None:
        super().__init__()
        channels, height, width = shape
        stages: list[nn.Module] = []
        for outputs in CNN_CHANNELS:
            stages += [nn.Conv2d(channels, outputs, 3, padding=1), nn.MaxPool2d(3, stride=2, padding=1)]
            stages += [ResidualBlock(outputs), ResidualBlock(outputs)]
            channels, height, width = outputs, (height + 1) // 2, (width + 1) // 2
        self.stages = nn.Sequential(*stages)
        self.layers = dense_layers((channels * height * width, *hidden_sizes), activation)
        self.scale = 1 / 255 if uint8 else 1.0
        self.large = self.gains_from_bfloat16 = min(shape[1:]) >= NATURE_SMALLEST

    def forward(self, observations: Tensor) -> Tensor:
        """`[N, C, H, W]` to `[N, width]`; uint8 pixels are scaled to 0..1."""
        encoded: Tensor = self.layers(torch.relu(self.stages(observations.float() * self.scale)).flatten(1))
        return encoded


class StridedEncoder(nn.Module):
    """Strided convolutions and dense layers.

    Each observation is standardised first. In most games a few pixels move in front of a constant,
    positive background. Without standardisation the background makes up 98 % of the layers' outputs,
    and one update that is too large can turn off all ReLUs.

    Args:
        shape: `[C, H, W]` of an observation.
        convolutions: channels, kernel size and stride of each.
        hidden_sizes: widths of the dense layers.
        activation: of the dense layers.
        uint8: whether pixels are bytes, which are scaled to 0..1.

    Attributes:
        large: whether the convolutions are large enough for several threads and for channels_last.
        gains_from_bfloat16: whether a CPU with bfloat16 in hardware trains them faster in it.
    """

    def __init__(
        self,
        shape: Sequence[int],
        convolutions: Sequence[tuple[int, int, int]],
        hidden_sizes: Sequence[int],
        activation: type[nn.Module],
        *,
        uint8: bool,
    ) -> None:
        super().__init__()
        channels, height, width = shape
        layers: list[nn.Module] = []
        for outputs, size, stride in convolutions:
            convolution = nn.Conv2d(channels, outputs, size, stride)
            orthogonal_init(convolution, sqrt(2))
            layers += [convolution, nn.ReLU()]
            channels, height, width = outputs, (height - size) // stride + 1, (width - size) // stride + 1
        self.convolutions = nn.Sequential(*layers)
        self.layers = dense_layers((channels * height * width, *hidden_sizes), activation)
        self.scale = 1 / 255 if uint8 else 1.0
        self.large = convolutions[0][2] == BLOCK
        self.gains_from_bfloat16 = self.large and uint8 and all(side % BLOCK == 0 for side in shape[1:])

    def forward(self, observations: Tensor) -> Tensor:
        """`[N, C, H, W]` to `[N, width]`; uint8 pixels are scaled to 0..1."""
        first, *others = self.convolutions
        x = self.first_outputs(first, observations)
        for layer in others:
            x = layer(x)
        encoded: Tensor = self.layers(x.flatten(1))
        return encoded

    def first_outputs(self, first: nn.Module, images: Tensor) -> Tensor:
        """The first convolution of the standardised images.

        Where the network is trained on a CPU, the outputs are in the memory format channels_last, and the
        next convolutions', too (docs/decisions/037).
        """
        fast = self.large and gains_from_channels_last(images)
        if fast and self.gains_from_bfloat16:  # it is computed on blocks of bytes
            return convolve_blocks(first, standardised_in_parts(blocks_of(images), self.scale, autocast_dtype()))
        pixels = standardised(images, self.scale)
        outputs: Tensor = first(pixels.contiguous(memory_format=torch.channels_last) if fast else pixels)
        return outputs


class NatureEncoder(StridedEncoder):
    """Three convolutions and dense layers (Mnih et al. 2015).

    On frames of 84x84 it needs a sixth of the computation of IMPALA's network.
    """

    def __init__(self, shape: Sequence[int], hidden_sizes: Sequence[int], activation: type[nn.Module], *, uint8: bool) -> None:
        _, height, width = shape
        if min(height, width) < NATURE_SMALLEST:
            raise UserError(
                f"agent.encoder=nature reads images of at least {NATURE_SMALLEST}x{NATURE_SMALLEST}, got {height}x{width}; "
                "use agent.encoder=cnn"
            )
        super().__init__(shape, NATURE_LAYERS, hidden_sizes, activation, uint8=uint8)


class SmallEncoder(StridedEncoder):
    """Two convolutions and dense layers (Mnih et al. 2013), for training on a CPU.

    On images of 64x64 it needs a third of the computation of `NatureEncoder`.
    """

    def __init__(self, shape: Sequence[int], hidden_sizes: Sequence[int], activation: type[nn.Module], *, uint8: bool) -> None:
        super().__init__(shape, small_layers(min(shape[1:])), hidden_sizes, activation, uint8=uint8)


def small_layers(side: int) -> Sequence[tuple[int, int, int]]:
    """Channels, kernel size and stride of each convolution of `SmallEncoder`, for the shorter side of an image."""
    if side >= NATURE_SMALLEST:
        return SMALL_LAYERS
    return SMALL_LAYERS_OF_16 if side >= 16 else ((16, min(3, side), 1),)  # noqa: PLR2004  (the constant's name says it)


IMAGE_ENCODERS: Mapping[str, Callable[..., nn.Module]] = {
    "cnn": ImageEncoder,
    "nature": NatureEncoder,
    "small_cnn": SmallEncoder,
}
