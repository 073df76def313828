"""Versions of a role, and CPU, memory and file usage of its processes, read at each Prometheus scrape."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

import psutil
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class Quantity(NamedTuple):
    """A quantity of a process.

    Attributes:
        name: the series' name without `oatmill_process_` and `_total`.
        family: whether it is a counter or a gauge.
        text: what it is, for Prometheus.
        read: reads it; may raise psutil.Error.
    """

    name: str
    family: type[CounterMetricFamily | GaugeMetricFamily]
    text: str
    read: Callable[[psutil.Process], float]


QUANTITIES = (
    Quantity("cpu_seconds", CounterMetricFamily, "CPU time, in user mode and in the kernel.", lambda p: sum(p.cpu_times()[:2])),
    Quantity(
        "resident_memory_bytes", GaugeMetricFamily, "Resident memory, including shared pages.", lambda p: p.memory_info().rss
    ),
    Quantity("open_fds", GaugeMetricFamily, "Open files and sockets.", lambda p: p.num_fds()),
    Quantity("threads", GaugeMetricFamily, "Threads.", lambda p: p.num_threads()),
    Quantity("start_time_seconds", GaugeMetricFamily, "Start time, in seconds since the epoch.", lambda p: p.create_time()),
)


def read_process(process: psutil.Process) -> dict[str, float]:
    """Return the quantities of a process by name; those of a process that has ended are left out."""
    found = {}
    for quantity in QUANTITIES:
        with contextlib.suppress(psutil.Error):
            found[quantity.name] = float(quantity.read(process))
    return found


def oatmill_version() -> str:
    """Return the installed version, or `unknown` in a checkout that is not installed."""
    try:
        return version("oatmill")
    except PackageNotFoundError:
        return "unknown"


class ProcessCollector(Collector):
    """`oatmill_build_info` and `oatmill_process_*{process}` for the processes of a role.

    Args:
        pids: the process ids, by the value of the label `process`. A process that has ended is left
            out.
        libraries: the versions of further libraries, by the label's name.
        reported: returns quantities of processes that are not read here, such as those of other
            hosts: by the value of the label, and then by `Quantity.name`.
    """

    def __init__(
        self,
        pids: Mapping[str, int],
        libraries: Mapping[str, str] | None = None,
        reported: Callable[[], Mapping[str, Mapping[str, float]]] = dict,
    ) -> None:
        self._versions = {"version": oatmill_version(), "python": platform.python_version(), **(libraries or {})}
        self._processes = {name: psutil.Process(pid) for name, pid in pids.items()}
        self._reported = reported

    def collect(self) -> Iterator[Metric]:
        """Yield the versions, and each quantity of each process."""
        build = GaugeMetricFamily("oatmill_build_info", "Always 1.", labels=list(self._versions))
        build.add_metric(list(self._versions.values()), 1)
        yield build
        found = {name: read_process(process) for name, process in self._processes.items()} | dict(self._reported())
        for quantity in QUANTITIES:
            family = quantity.family(f"oatmill_process_{quantity.name}", quantity.text, labels=["process"])
            for name, numbers in found.items():
                if quantity.name in numbers:
                    family.add_metric([name], numbers[quantity.name])
            yield family
