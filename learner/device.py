"""Chooses device, precision and threads of a learner rank from the settings, the machine and the network."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from learner.settings import TrainerSettings
from oatmill.errors import UserError
from oatmill.process.memory import CGROUPS

HALF_COST = 0.45
"""A pass of a large image encoder in bfloat16 takes about this part of the time in float32 (docs/decisions/037)."""
BACKWARD_PASSES = 3
"""A pass forward and back takes as long as about this many passes forward."""
ACTOR_PASSES = 3
"""An actor's step of an image environment, with few rows at once, takes as long as about this many passes forward."""


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


def in_bfloat16(precision: str, device: torch.device, network: nn.Module) -> bool:
    """Whether a network's encoder is computed in bfloat16 on a device.

    Args:
        precision: `trainer.precision`.
        device: where the network is trained.
        network: `auto` asks its encoders whether bfloat16 makes them faster.
    """
    if precision != "auto":
        return precision == "bfloat16"
    return device.type == "cpu" and multiplies_bfloat16() and any_encoder(network, "gains_from_bfloat16")


def any_encoder(network: nn.Module, attribute: str) -> bool:
    """Whether an attribute is true for one of a network's encoders; see `agent.encoders.ImageEncoder`."""
    return any(getattr(module, attribute, False) is True for module in network.modules())


def multiplies_bfloat16() -> bool:
    """Whether this CPU multiplies matrices of bfloat16 faster than those of float32.

    Intel's CPUs do with AMX. With AVX512_BF16 alone float32 is faster on them, but on AMD's bfloat16 is.
    """
    found: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.10 does not have it
    of_amd = str(found.get("cpu_name", "")).startswith("AMD")
    return bool(found.get("amx_bf16")) or (of_amd and bool(found.get("avx512_bf16")))


def learner_threads(trainer: TrainerSettings, settings: Mapping[str, Any], network: nn.Module, *, half: bool) -> int:
    """The CPU threads of a learner rank.

    `auto` estimates how the machine's cores are shared between the learner and its actors, if both are to be
    busy all the time. The learner gets its share, and the cores that there are no actors for.

    Args:
        trainer: its `threads`, `epochs` and `learners` are read.
        settings: the run's settings; `actors.count` is read.
        network: the network.
        half: whether its encoder is computed in bfloat16.
    """
    if trainer.threads != "auto":
        return trainer.threads
    if not any_encoder(network, "large"):
        return 1
    cores, actors = usable_cores(), int(settings.get("actors", {}).get("count", 1))
    update = (1 + BACKWARD_PASSES * trainer.epochs) * (HALF_COST if half else 1)
    share = round(cores * update / (update + ACTOR_PASSES))
    return max(1, max(share, cores - actors) // trainer.learners)


def usable_cores() -> int:
    """The cores that this process may use: its affinity, and its container's limit if that is less."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # macOS has no affinity
    with suppress(OSError, ValueError):  # cgroup 2; without a limit the first word is `max`
        quota, period = (CGROUPS / "cpu.max").read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    with suppress(OSError, ValueError):  # cgroup 1; without a limit the quota is -1
        quota, period = ((CGROUPS / f"cpu/cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return max(1, min(cores, int(quota) // int(period))) if int(quota) > 0 else cores
    return cores
