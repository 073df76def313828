"""Sums over ranks; with one rank, the values themselves."""

from __future__ import annotations

from typing import Protocol

import torch.distributed as dist
from torch import Tensor


class Reducer(Protocol):
    """Adds up the numbers of all ranks."""

    world_size: int

    def sum(self, values: Tensor) -> Tensor:
        """The sum over ranks, the same on each of them."""
        ...


class OneRank:
    """A single rank: nothing to add up."""

    world_size = 1

    def sum(self, values: Tensor) -> Tensor:
        """The values themselves."""
        return values


class AllRanks:
    """Sums by all-reduce over the default process group."""

    def __init__(self) -> None:
        self.world_size = dist.get_world_size()

    def sum(self, values: Tensor) -> Tensor:
        """A new tensor; the argument is left as it is."""
        total = values.detach().clone()
        dist.all_reduce(total)
        return total
