"""Encoders of MettaGrid's tokens (location, feature, value), as a grid or as a set."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from agent.heads import dense_layers
from agent.tokens.sparse_bag import sparse_bag
from protocol.data.spaces import ObservationSpace

PAD_LOCATION = 255
GLOBAL_LOCATION = 254
TABLE_STD = 0.05
"""About forty tokens are summed; this keeps the initial sum in a third of the activation's range."""


class TokenCodebook:
    """Maps MettaGrid's tokens (location, feature, value) to slots, which are input columns, and weights.

    A numeric feature has two slots. The first one has weight 1 and marks that the feature is present.
    The second one's weight is log(1 + value) / log(1 + scale); the logarithm separates small numbers
    of items. A categorical feature has one slot per value.
    """

    def __init__(self, observation: ObservationSpace) -> None:
        scales, categorical = observation.feature_scales, observation.categorical_features
        self.features = len(scales)
        self.num_categories = observation.num_categories
        self.slots = 2 * self.features + len(categorical) * self.num_categories
        self.log_scales = torch.log1p(torch.tensor(list(scales), dtype=torch.float32).clamp(min=1.0))
        self.category_start = torch.full((self.features,), -1, dtype=torch.long)
        for position, feature in enumerate(categorical):
            self.category_start[feature] = 2 * self.features + position * self.num_categories
        self.rows, self.columns = observation.window
        self.places = self.rows * self.columns + 1

    def place_table(self) -> Tensor:
        """Maps a location byte to a place: row-major within the window, one more for all others."""
        location = torch.arange(256)
        row, column = location // 16, location % 16
        inside = (row < self.rows) & (column < self.columns) & (location < GLOBAL_LOCATION)
        return torch.where(inside, row * self.columns + column, self.places - 1)

    def lookup_tables(self) -> tuple[Tensor, Tensor, Tensor]:
        """Tables indexed by `feature * 256 + value`: first slot, second slot's weight, second slot.

        With 65,536 rows each, encoding a token needs look-ups only and no arithmetic.
        """
        feature = torch.arange(256).repeat_interleave(256).clamp(max=self.features - 1)
        value = torch.arange(256).repeat(256)
        start = self.category_start[feature]
        categorical = start >= 0
        category = value.clamp(max=max(self.num_categories - 1, 0))
        first = torch.where(categorical, start + category, 2 * feature)
        weight = torch.where(categorical, torch.zeros(()), torch.log1p(value.float()) / self.log_scales[feature])
        second = torch.where(categorical, first, 2 * feature + 1)
        return first, weight, second


class TokenEncoder(nn.Module):
    """Base class of the token encoders; holds the tables of a `TokenCodebook` as buffers."""

    place: Tensor
    first_slot: Tensor
    size_weight: Tensor
    size_slot: Tensor

    def __init__(self, codebook: TokenCodebook) -> None:
        super().__init__()
        first, weight, second = codebook.lookup_tables()
        # int32 halves the memory to read per token and saves a fifth of the time compared to int64.
        self.register_buffer("place", codebook.place_table().int(), persistent=False)
        self.register_buffer("first_slot", first.int(), persistent=False)
        self.register_buffer("size_weight", weight, persistent=False)
        self.register_buffer("size_slot", second.int(), persistent=False)

    def slots(self, tokens_NKC: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Places, first slots, second slots and weights, each `[...]`, of tokens `[..., 3]`."""
        location, feature, value = tokens_NKC.flatten(0, -2).int().unbind(-1)
        key = feature * 256 + value
        rows = ((self.place, location), (self.first_slot, key), (self.size_slot, key), (self.size_weight, key))
        place, first, second, weight = (table.index_select(0, row).view(tokens_NKC.shape[:-1]) for table, row in rows)
        return place, first, second, weight


def is_exported() -> bool:
    """Whether the network is being traced for a file."""
    return torch.compiler.is_exporting() or bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def without_trailing_pads(tokens_NKC: Tensor) -> Tensor:
    """Drop the trailing columns that hold padding in every row.

    On a GPU nothing is dropped, because finding the columns would have to wait for the device. In an exported graph nothing
    is dropped either, because its shapes do not depend on the data.
    """
    if tokens_NKC.is_cuda or is_exported():
        return tokens_NKC
    used = (tokens_NKC[..., 0] != PAD_LOCATION).any(0)
    last = int(used.nonzero().max()) + 1 if bool(used.any()) else 1
    return tokens_NKC[:, :last]


class TokenGridEncoder(TokenEncoder):
    """A linear layer over the (location, slot) grid, computed as a weighted sum of table rows."""

    def __init__(self, codebook: TokenCodebook, hidden_sizes: Sequence[int], activation: type[nn.Module]) -> None:
        super().__init__(codebook)
        self.slots_per_place = codebook.slots
        self.table = nn.EmbeddingBag(codebook.places * codebook.slots, hidden_sizes[0], mode="sum")
        nn.init.normal_(self.table.weight, std=TABLE_STD)
        self.bias = nn.Parameter(torch.zeros(hidden_sizes[0]))
        self.activation = activation()
        self.layers = dense_layers(hidden_sizes, activation)

    def forward(self, observations: Tensor) -> Tensor:
        """`[N, K, 3]` uint8 tokens to `[N, width]`."""
        tokens = without_trailing_pads(observations)
        trains_on_cpu = torch.is_grad_enabled() and not (tokens.is_cuda or torch.compiler.is_compiling())
        bag = self.sparse(tokens) if trains_on_cpu else self.dense(tokens)
        encoded: Tensor = self.layers(self.activation(bag + self.bias))
        return encoded

    def dense(self, tokens: Tensor) -> Tensor:
        """Sum over all tokens with weight 0 for padding, so that shapes do not depend on the data."""
        place, first, second, weight = self.slots(tokens)
        present = (tokens[..., 0] != PAD_LOCATION).float()
        base = place * self.slots_per_place
        index = torch.cat([base + first, base + second], 1)
        weights = torch.cat([present, weight * present], 1)
        if is_exported():  # in plain operations, which any runtime has
            return (embedding(index, self.table.weight) * weights.unsqueeze(-1)).sum(1)
        bag: Tensor = self.table(index, per_sample_weights=weights)
        return bag

    def sparse(self, tokens: Tensor) -> Tensor:
        """The same sums without padding; on a CPU this takes a third of the time of `dense`."""
        flat = tokens.flatten(0, 1)
        at = (flat[:, 0] != PAD_LOCATION).nonzero().flatten()
        place, first, second, size = self.slots(flat.index_select(0, at))
        rows = torch.stack([first, second], 1) + (place * self.slots_per_place).unsqueeze(1)
        weights = torch.stack([torch.ones_like(size), size], 1)
        bags = (at.int() // tokens.shape[1]).repeat_interleave(2)
        return sparse_bag(self.table.weight, bags, rows.flatten(), weights.flatten(), len(tokens))


class TokenSetEncoder(TokenEncoder):
    """Embeds each token, applies a dense layer, and pools over tokens by maximum or attention."""

    def __init__(
        self,
        codebook: TokenCodebook,
        width: int,
        hidden_sizes: Sequence[int],
        activation: type[nn.Module],
        *,
        attention: bool,
    ) -> None:
        super().__init__(codebook)
        self.location = nn.Embedding(codebook.places, width)
        self.slot = nn.Embedding(codebook.slots, width)
        self.token = dense_layers((width, width), activation)
        self.query = nn.Linear(width, 1) if attention else None
        self.layers = dense_layers((width, *hidden_sizes), activation)

    def forward(self, observations: Tensor) -> Tensor:
        """`[N, K, 3]` uint8 tokens to `[N, width]`."""
        tokens = without_trailing_pads(observations)
        place, first, second, weight = self.slots(tokens)
        present = (tokens[..., 0] != PAD_LOCATION).unsqueeze(-1)
        embedded = self.location(place) + self.slot(first) + weight.unsqueeze(-1) * self.slot(second)
        features = self.token(embedded)
        if self.query is None:
            pooled = features.masked_fill(~present, -1e9).amax(1) * present.any(1)
        else:
            scores = self.query(features).masked_fill(~present, -1e9)
            pooled = (scores.softmax(1) * features * present).sum(1)
        encoded: Tensor = self.layers(pooled)
        return encoded
