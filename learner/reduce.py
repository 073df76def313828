"""Sums over ranks, and nothing at all where there is one rank."""

from __future__ import annotations

from typing import Protocol

import torch.distributed as dist
from torch import Tensor


class Reducer(Protocol):
    """How numbers of all ranks become one."""

    world_size: int

    def sum(self, values: Tensor) -> Tensor:
        """The sum over ranks, the same on each of them."""
        ...


class OneRank:
    """There is nobody to reduce with."""

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
