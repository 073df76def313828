"""What the learner's ranks use, and their GPUs, as series.

No test here has a GPU: tests/learner/reporting/fake_gpu.py stands in for CUDA's runtime and for NVML. Two real ranks
exchange their numbers in tests/learner/ranks/test_reduce.py, and tests/gpu/test_cuda.py reads a real GPU.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import psutil
import pytest
import torch

from learner.ranks.reduce import OneRank, Ranks
from learner.reporting import rank_resources
from learner.reporting.gpu import QUANTITIES, read_gpu
from learner.reporting.metrics import LearnerMetrics
from learner.reporting.rank_resources import OLD_AFTER_S, READ_EVERY_S, RankResources, Resources
from tests.learner.reporting.fake_gpu import NUMBERS, fake_gpu, refuse
from tests.learner.worlds import ONE

GPU = torch.device("cuda", 0)
OF_NVML = {"utilization_ratio", "power_watts", "temperature_celsius"}


class Clock:
    """The monotonic clock, which a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(rank_resources, "time", clock)
    return clock


def gpu_series(metrics: LearnerMetrics) -> dict[tuple[str, str], float]:
    """The samples of GPUs, by name without the prefix and by process."""
    return {
        (sample.name.removeprefix("oatmill_gpu_"), sample.labels["process"]): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name.startswith("oatmill_gpu_")
    }


def series_of(resources: RankResources) -> LearnerMetrics:
    return LearnerMetrics({}, {}, ranks=resources.newest)


def test_the_gpu_of_a_rank_is_exported_in_base_units(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_gpu(monkeypatch)
    resources = RankResources(Ranks(0, 1, GPU, OneRank()))
    metrics = series_of(resources)
    assert gpu_series(metrics) == {}, "nothing was read yet"
    resources.gather()
    assert gpu_series(metrics) == {(name, "learner"): value for name, value in NUMBERS.items()}
    assert {quantity.name for quantity in QUANTITIES} == set(NUMBERS)


def test_a_rank_reads_the_gpu_that_it_trains_on(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_gpu(monkeypatch)
    found = read_gpu(torch.device("cuda", 3))
    assert found["memory_used_bytes"] == NUMBERS["memory_used_bytes"] + 3
    assert found["temperature_celsius"] == NUMBERS["temperature_celsius"] + 3


def test_a_cpu_has_no_series_of_a_gpu() -> None:
    resources = RankResources(ONE)
    resources.gather()
    assert resources.newest()[0].gpu == {}
    assert gpu_series(series_of(resources)) == {}


@pytest.mark.parametrize(
    ("driver", "missing"),
    [
        ({"nvml": False}, OF_NVML),
        ({"nvmlInit": refuse}, OF_NVML),
        ({"nvmlDeviceGetUtilizationRates": refuse}, {"utilization_ratio"}),
    ],
    ids=["without nvidia-ml-py", "without NVML's library", "under MIG"],
)
def test_what_nvml_does_not_tell_has_no_series(
    driver: Mapping[str, Any], missing: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_gpu(monkeypatch, **driver)
    resources = RankResources(Ranks(0, 1, GPU, OneRank()))
    resources.gather()
    assert {name for name, _ in gpu_series(series_of(resources))} == set(NUMBERS) - missing


def test_a_driver_that_fails_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: unspecified launch failure")

    fake_gpu(monkeypatch)
    monkeypatch.setattr("torch.cuda.memory.memory_stats", broken)
    monkeypatch.setattr(torch.cuda, "cudart", broken)
    assert set(read_gpu(GPU)) == OF_NVML


def test_the_missing_package_is_named_once_and_by_rank_0(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with caplog.at_level(logging.INFO, "oatmill.learner"):
        RankResources(ONE)
        RankResources(Ranks(1, 2, GPU, OneRank()))
        assert caplog.messages == [], "a CPU needs none"
        RankResources(Ranks(0, 2, GPU, OneRank()))
    (message,) = caplog.messages
    assert "pip install 'oatmill[gpu]'" in message


def test_other_ranks_are_processes_beside_rank_0() -> None:
    used = Resources({"cpu_seconds": 1.0}, {}), Resources({"cpu_seconds": 7.0, "threads": 3.0}, {"power_watts": 90.0})
    metrics = LearnerMetrics({}, {}, ranks=lambda: used)

    def value(name: str, process: str) -> float | None:
        return metrics.registry.get_sample_value(f"oatmill_{name}", {"process": process})

    assert value("process_cpu_seconds_total", "learner-1") == 7
    assert value("process_threads", "learner-1") == 3
    assert value("process_open_fds", "learner-1") is None, "it was not read"
    assert value("process_cpu_seconds_total", "learner") != 1, "rank 0 is read at each scrape"
    assert gpu_series(metrics) == {("power_watts", "learner-1"): 90.0}


def test_a_rank_reads_its_own_process() -> None:
    resources = RankResources(ONE)
    resources.gather()
    process = resources.newest()[0].process
    assert process["start_time_seconds"] == psutil.Process(os.getpid()).create_time()
    assert process["resident_memory_bytes"] > 2**20


def test_numbers_are_due_every_few_seconds_and_old_ones_are_left_out(clock: Clock) -> None:
    resources = RankResources(ONE)
    assert resources.due
    resources.gather()
    clock.now += READ_EVERY_S - 0.1
    assert not resources.due
    clock.now += 0.2
    assert resources.due
    clock.now += OLD_AFTER_S - READ_EVERY_S - 0.2
    assert len(resources.newest()) == 1
    clock.now += 0.2
    assert resources.newest() == (), "a learner that hangs does not look busy"
