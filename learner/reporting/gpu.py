"""Reads a learner rank's GPU: memory, utilisation, power draw and temperature."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import torch


class Quantity(NamedTuple):
    """A quantity of a GPU.

    Attributes:
        name: the series' name without `oatmill_gpu_`; ends with the unit.
        text: what it is, for Prometheus.
        read: reads it; may raise.
    """

    name: str
    text: str
    read: Callable[[torch.device], float]


def _used(device: torch.device) -> int:
    free, total = torch.cuda.mem_get_info(device)
    return total - free


QUANTITIES = (
    Quantity("memory_allocated_bytes", "GPU memory of the rank's tensors.", torch.cuda.memory_allocated),
    Quantity("memory_reserved_bytes", "GPU memory that the rank's allocator holds.", torch.cuda.memory_reserved),
    Quantity("memory_used_bytes", "GPU memory that all processes on this GPU use.", _used),
    Quantity("memory_capacity_bytes", "All memory of the GPU.", lambda gpu: torch.cuda.mem_get_info(gpu)[1]),
    # These three need NVML, which measures over a period of its own: 1/6 of a second to a second.
    Quantity(
        "utilization_ratio", "Fraction of the time in which the GPU computed.", lambda gpu: torch.cuda.utilization(gpu) / 100
    ),
    Quantity("power_watts", "Power draw of the GPU.", lambda gpu: torch.cuda.power_draw(gpu) / 1000),
    Quantity("temperature_celsius", "Temperature of the GPU.", torch.cuda.temperature),
)


def read_gpu(device: torch.device) -> dict[str, float]:
    """The quantities of a GPU by name. Those that cannot be read are left out, and a CPU has none.

    Args:
        device: the rank's device.
    """
    found: dict[str, float] = {}
    for quantity in QUANTITIES if device.type == "cuda" else ():
        # Without nvidia-ml-py torch raises ModuleNotFoundError, without a driver RuntimeError, and what a GPU cannot tell
        # (utilisation under MIG) an error of a module that may be missing. No measurement is worth a run.
        with suppress(Exception):
            found[quantity.name] = float(quantity.read(device))
    return found
