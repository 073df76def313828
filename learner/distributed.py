"""Ranks: one process group on gloo or NCCL, one wrapped network, and decisions that all ranks make together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from learner.reduce import AllRanks, OneRank, Reducer
from learner.settings import TrainerSettings
from protocol.errors import UserError

TIMEOUT = timedelta(seconds=60)


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
        """The sum of each number over all ranks: no rank decides alone, and none waits alone."""
        if self.world_size == 1:
            return list(flags)
        total: Tensor = self.reducer.sum(torch.tensor(flags, dtype=torch.float64, device=self.device))
        return [float(value) for value in total.cpu()]

    def wrap(self, model: nn.Module) -> nn.Module:
        """The network whose gradients are averaged over ranks as they are computed."""
        if self.world_size == 1:
            return model
        return DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)


@contextmanager
def joined(settings: TrainerSettings) -> Iterator[Ranks]:
    """Join the process group that RANK, WORLD_SIZE, LOCAL_RANK and MASTER_* describe, and leave it at the end.

    Args:
        settings: the device.
    """
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    device = choose_device(settings.device, int(os.environ.get("LOCAL_RANK", "0")))
    if world_size == 1:
        yield Ranks(rank, world_size, device, OneRank())
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield Ranks(rank, world_size, device, AllRanks())
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
