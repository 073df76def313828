"""Encoders of Dict observations: from a tensor a key to one vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from protocol.data.observations import ObservationDict


class KeyEncoder(nn.Module):
    """The encoder of a Dict's only key beside its mask."""

    def __init__(self, path: str, encoder: nn.Module) -> None:
        super().__init__()
        self.path = path
        self.encoder = encoder

    def forward(self, observations: ObservationDict[Tensor]) -> Tensor:
        """Each key `[N, ...]` to `[N, width]`."""
        encoded: Tensor = self.encoder(observations[self.path])
        return encoded


class DictEncoder(nn.Module):
    """An encoder for each key, and layers that join their outputs.

    Args:
        vectors: paths of the keys that are joined as they are.
        encoders: the other keys' encoders by path.
        layers: from all columns side by side, the vectors first, to the output.
    """

    def __init__(self, vectors: Sequence[str], encoders: Mapping[str, nn.Module], layers: nn.Module) -> None:
        super().__init__()
        self.vectors = tuple(vectors)
        self.paths = tuple(encoders)
        self.encoders = nn.ModuleList(encoders.values())  # a ModuleDict does not take every key
        self.layers = layers

    def forward(self, observations: ObservationDict[Tensor]) -> Tensor:
        """Each key `[N, ...]` to `[N, width]`."""
        columns = [observations[path].float() for path in self.vectors]
        columns += [encoder(observations[path]) for path, encoder in zip(self.paths, self.encoders, strict=True)]
        joined: Tensor = self.layers(torch.cat(columns, -1))
        return joined
