"""Versions of a role, and CPU, memory and file usage of its processes, read at each Prometheus scrape."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version

import psutil
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

Family = CounterMetricFamily | GaugeMetricFamily


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
    """

    def __init__(self, pids: Mapping[str, int], libraries: Mapping[str, str] | None = None) -> None:
        self._versions = {"version": oatmill_version(), "python": platform.python_version(), **(libraries or {})}
        self._processes = {name: psutil.Process(pid) for name, pid in pids.items()}

    def collect(self) -> Iterator[Metric]:
        """Yield the versions, and each quantity of each process."""
        build = GaugeMetricFamily("oatmill_build_info", "Always 1.", labels=list(self._versions))
        build.add_metric(list(self._versions.values()), 1)
        yield build
        readings: list[tuple[Family, Callable[[psutil.Process], float]]] = [
            (_counter("cpu_seconds", "CPU time, in user mode and in the kernel."), lambda p: sum(p.cpu_times()[:2])),
            (_gauge("resident_memory_bytes", "Resident memory, including shared pages."), lambda p: p.memory_info().rss),
            (_gauge("open_fds", "Open files and sockets."), lambda p: p.num_fds()),
            (_gauge("threads", "Threads."), lambda p: p.num_threads()),
            (_gauge("start_time_seconds", "Start time, in seconds since the epoch."), lambda p: p.create_time()),
        ]
        for family, read in readings:
            for name, process in self._processes.items():
                with contextlib.suppress(psutil.Error):
                    family.add_metric([name], read(process))
            yield family


def _counter(name: str, text: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"oatmill_process_{name}", text, labels=["process"])


def _gauge(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"oatmill_process_{name}", text, labels=["process"])
