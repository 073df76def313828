"""Ranks: one process group on gloo or NCCL, one wrapped network, and decisions that all ranks make together."""

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


@dataclass(frozen=True)
class Ranks:
    """Which one of how many this process is, and where it computes."""

    rank: int
    world_size: int
    device: torch.device
    reducer: Reducer

    @property
    def first(self) -> bool:
        """Rank 0 publishes, saves and reports."""
        return self.rank == 0

    def agree(self, *flags: float) -> list[float]:
        """The sum of each number over all ranks: what all go on with."""
        if self.world_size == 1:
            return list(flags)
        total: Tensor = self.reducer.sum(torch.tensor(flags, dtype=torch.float64, device=self.device))
        return [float(value) for value in total.cpu()]

    def lowest(self, *flags: float) -> list[float]:
        """The lowest of each number over all ranks; of flags, whether all of them are set."""
        values = torch.tensor(flags, dtype=torch.float64, device=self.device)
        if self.world_size > 1:
            dist.all_reduce(values, op=dist.ReduceOp.MIN)
        return [float(value) for value in values.cpu()]

    def gather(self, own: Tensor) -> list[Tensor]:
        """The tensors of all ranks in their order, on the CPU; all have the same shape.

        Args:
            own: this rank's.
        """
        if self.world_size == 1:
            return [own.cpu()]
        found = [torch.empty_like(own, device=self.device) for _ in range(self.world_size)]
        dist.all_gather(found, own.to(self.device))
        return [tensor.cpu() for tensor in found]

    def wrap(self, model: nn.Module) -> nn.Module:
        """The network whose gradients are averaged over ranks as they are computed."""
        if self.world_size == 1:
            return model
        with warnings.catch_warnings():
            # torch 2.13 has another name for broadcast_buffers, which 2.10 does not know.
            warnings.simplefilter("ignore", FutureWarning)
            return DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)


@contextmanager
def joined(settings: TrainerSettings) -> Iterator[Ranks]:
    """Join the process group that the environment describes (`learner.ranks.meeting`), and leave it at the end.

    Args:
        settings: the device, and how long one rank waits for another.

    Raises:
        UserError: if the environment or the device cannot work.
        RunError: if the other ranks have not come in time.
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
    """The device that the settings come to on this machine."""
    available = torch.cuda.is_available()
    if asked == "cuda" and not available:
        raise UserError(
            "trainer.device=cuda needs a CUDA GPU and a CUDA build of torch, and there is none; set it to cpu or auto"
        )
    if asked == "cpu" or not available:
        return torch.device("cpu")
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device
