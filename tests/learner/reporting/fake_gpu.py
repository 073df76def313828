"""A stand-in for a CUDA device on machines without one: for CUDA's runtime and for NVML, below torch's own functions."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

ALLOCATED, RESERVED, FREE, TOTAL = 2**30, 3 * 2**30, 6 * 2**30, 16 * 2**30
BUSY_PERCENT, MILLIWATTS, DEGREES = 75, 250_500, 61
NUMBERS = {
    "memory_allocated_bytes": ALLOCATED,
    "memory_reserved_bytes": RESERVED,
    "memory_used_bytes": 10 * 2**30,
    "memory_capacity_bytes": TOTAL,
    "utilization_ratio": 0.75,
    "power_watts": 250.5,
    "temperature_celsius": 61,
}
"""What should be read of GPU 0. GPU N has N bytes more in use, and is N degrees warmer."""


class NvmlError(Exception):
    """What NVML raises, which is no class of Python's own that torch or we could name."""


def fake_gpu(patch: pytest.MonkeyPatch, *, nvml: bool = True, **refused: Any) -> None:
    """Give torch a driver that answers for all GPUs.

    Args:
        patch: takes it away again.
        nvml: whether the package nvidia-ml-py is there.
        refused: functions of NVML in the place of those that answer.
    """
    stats = {"allocated_bytes.all.current": ALLOCATED, "reserved_bytes.all.current": RESERVED}
    patch.setattr("torch.cuda.memory.memory_stats", lambda device=None: stats)  # noqa: ARG005  (torch names it)
    patch.setattr(torch.cuda, "cudart", lambda: SimpleNamespace(cudaMemGetInfo=lambda index: (FREE - index, TOTAL)))
    answers = {
        "NVMLError_DriverNotLoaded": NvmlError,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetUtilizationRates": lambda _: SimpleNamespace(gpu=BUSY_PERCENT, memory=1),
        "nvmlDeviceGetPowerUsage": lambda _: MILLIWATTS,
        "nvmlDeviceGetTemperature": lambda index, _: DEGREES + index,
    }
    module = ModuleType("pynvml")
    module.__dict__.update(answers | refused)
    module.__spec__ = ModuleSpec("pynvml", None)
    patch.setitem(sys.modules, "pynvml", module)
    patch.setattr(torch.cuda, "pynvml", module, raising=False)
    patch.setattr(torch.cuda, "_HAS_PYNVML", nvml)
    patch.setattr(torch.cuda, "_PYNVML_ERR", ModuleNotFoundError("No module named 'pynvml'"), raising=False)


def refuse(*_: object) -> None:
    """What a GPU does not tell, such as its utilisation under MIG."""
    raise NvmlError("Not Supported")
