"""CPU, memory and GPU of all learner ranks: each rank reads its own, and rank 0 exports them."""

from __future__ import annotations

import importlib.util
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import psutil
import torch
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from learner.ranks.reduce import Ranks
from learner.reporting import gpu
from oatmill.process import metrics

log = logging.getLogger("oatmill.learner")

READ_EVERY_S = 5.0
"""As often as Prometheus reads them: NVML may take milliseconds, and ranks have to wait for each other."""
OLD_AFTER_S = 300.0
"""Older numbers are not exported, so that a learner that hangs does not look busy."""
OF_PROCESS = tuple(quantity.name for quantity in metrics.QUANTITIES)
OF_GPU = tuple(quantity.name for quantity in gpu.QUANTITIES)


class Resources(NamedTuple):
    """What one rank uses, by name of the quantity; those that could not be read are left out."""

    process: Mapping[str, float]
    gpu: Mapping[str, float]


class RankResources:
    """What all ranks use.

    Args:
        ranks: the group of ranks; the GPU is the device of this rank.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks, self._process = ranks, psutil.Process()
        self._newest: tuple[Resources, ...] = ()
        self._gathered_at = -math.inf
        if ranks.first and ranks.device.type == "cuda" and importlib.util.find_spec("pynvml") is None:
            log.info("utilisation, power and temperature of GPUs are not measured: they need pip install 'oatmill[gpu]'")

    @property
    def due(self) -> bool:
        """Whether it is time to call `gather`. Ranks may differ, so they must agree before they do."""
        return time.monotonic() - self._gathered_at >= READ_EVERY_S

    def gather(self) -> None:
        """Read what this rank uses, and exchange it with the other ranks. All ranks call it at the same time."""
        process, device = metrics.read_process(self._process), gpu.read_gpu(self._ranks.device)
        own = [process.get(name, math.nan) for name in OF_PROCESS] + [device.get(name, math.nan) for name in OF_GPU]
        rows = self._ranks.gather(torch.tensor(own, dtype=torch.float64))
        self._gathered_at = time.monotonic()
        self._newest = tuple(_resources(row.tolist()) for row in rows)

    def newest(self) -> Sequence[Resources]:
        """What was gathered last, in order of rank; nothing if that is long ago. Any thread may call it."""
        return self._newest if time.monotonic() - self._gathered_at < OLD_AFTER_S else ()


def _resources(row: Sequence[float]) -> Resources:
    return Resources(_known(OF_PROCESS, row[: len(OF_PROCESS)]), _known(OF_GPU, row[len(OF_PROCESS) :]))


def _known(names: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    return {name: value for name, value in zip(names, values, strict=True) if not math.isnan(value)}


def process_name(rank: int) -> str:
    """The value of the label `process` of a rank."""
    return f"learner-{rank}" if rank else "learner"


def processes_of(ranks: Sequence[Resources]) -> dict[str, Mapping[str, float]]:
    """What the processes of all ranks but rank 0 use, which is read at each scrape, by the label `process`."""
    return {process_name(rank): found.process for rank, found in enumerate(ranks) if rank}


class GpuCollector(Collector):
    """`oatmill_gpu_*{process}`, the GPU of each rank. Nothing without a GPU.

    Args:
        newest: returns what each rank uses.
    """

    def __init__(self, newest: Callable[[], Sequence[Resources]]) -> None:
        self._newest = newest

    def collect(self) -> Iterator[Metric]:
        """Yield each quantity of each rank's GPU."""
        ranks = self._newest()
        for quantity in gpu.QUANTITIES:
            family = GaugeMetricFamily(f"oatmill_gpu_{quantity.name}", quantity.text, labels=["process"])
            for rank, found in enumerate(ranks):
                if quantity.name in found.gpu:
                    family.add_metric([process_name(rank)], found.gpu[quantity.name])
            yield family
