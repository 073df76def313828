"""Averages gradients over the learner's ranks (DDP), and sums, compares and gathers their numbers."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


class Reducer(Protocol):
    """Sums numbers over ranks."""

    world_size: int

    def sum(self, values: Tensor) -> Tensor:
        """The sum over ranks; all ranks get the same result."""
        ...


class OneRank:
    """The reducer of a single rank."""

    world_size = 1

    def sum(self, values: Tensor) -> Tensor:
        """Return the values unchanged."""
        return values


class AllRanks:
    """Sums by all-reduce over the default process group."""

    def __init__(self) -> None:
        self.world_size = dist.get_world_size()

    def sum(self, values: Tensor) -> Tensor:
        """The sum over ranks as a new tensor."""
        total = values.detach().clone()
        dist.all_reduce(total)
        return total


@dataclass(frozen=True)
class Ranks:
    """This process's rank, the number of ranks, and its device."""

    rank: int
    world_size: int
    device: torch.device
    reducer: Reducer

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which publishes, saves and reports."""
        return self.rank == 0

    def agree(self, *flags: float) -> list[float]:
        """The sum of each number over all ranks; all ranks get the same result."""
        if self.world_size == 1:
            return list(flags)
        total: Tensor = self.reducer.sum(torch.tensor(flags, dtype=torch.float64, device=self.device))
        return [float(value) for value in total.cpu()]

    def lowest(self, *flags: float) -> list[float]:
        """The minimum of each number over all ranks; for flags, whether they are set on all ranks."""
        values = torch.tensor(flags, dtype=torch.float64, device=self.device)
        if self.world_size > 1:
            dist.all_reduce(values, op=dist.ReduceOp.MIN)
        return [float(value) for value in values.cpu()]

    def gather(self, own: Tensor) -> list[Tensor]:
        """The tensors of all ranks in order of rank, on the CPU.

        Args:
            own: this rank's tensor; all ranks' tensors must have the same shape.
        """
        if self.world_size == 1:
            return [own.cpu()]
        found = [torch.empty_like(own, device=self.device) for _ in range(self.world_size)]
        dist.all_gather(found, own.to(self.device))
        return [tensor.cpu() for tensor in found]

    def wrap(self, model: nn.Module) -> nn.Module:
        """Wrap a network with DDP, which averages gradients over ranks; unchanged with one rank."""
        if self.world_size == 1:
            return model
        with warnings.catch_warnings():
            # torch 2.13 renamed broadcast_buffers; 2.10 does not know the new name.
            warnings.simplefilter("ignore", FutureWarning)
            return DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)
