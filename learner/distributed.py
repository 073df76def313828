"""Learner ranks: a process group on gloo or NCCL, DDP, and decisions that all ranks make together."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from learner.ranks.meeting import Place
from learner.settings import TrainerSettings
from oatmill.errors import UserError


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


@contextmanager
def joined(settings: TrainerSettings) -> Iterator[Ranks]:
    """Join the process group that the environment variables describe, and leave it at the end.

    Args:
        settings: the learner's settings; has the device and the timeout.

    Raises:
        UserError: if the environment variables are invalid or the device is not available.
        RunError: if the other ranks do not join in time.
    """
    place = Place.of(os.environ)
    device = choose_device(settings.device, place.local_rank)
    if place.world_size == 1:
        yield Ranks(place.rank, place.world_size, device, OneRank())
        return
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=place.meet(settings.distributed_timeout),
        rank=place.rank,
        world_size=place.world_size,
        timeout=timedelta(seconds=settings.distributed_timeout),
    )
    try:
        yield Ranks(place.rank, place.world_size, device, AllRanks())
    finally:
        dist.destroy_process_group()


def choose_device(asked: str, local_rank: int) -> torch.device:
    """The device that `trainer.device` selects on this machine."""
    available = torch.cuda.is_available()
    if asked == "cuda" and not available:
        raise UserError(
            "trainer.device=cuda needs a CUDA GPU and a CUDA build of torch, but none was found; set it to cpu or auto"
        )
    if asked == "cpu" or not available:
        return torch.device("cpu")
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device
