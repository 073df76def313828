"""The example that runs trials through Ray Tune, on a Ray of two CPUs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.system.real_runs import ROOT

tune = pytest.importorskip("ray.tune", reason="needs ray[tune]", exc_type=ImportError)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import ray

    monkeypatch.setenv("RAY_worker_niceness", "0")  # with 15, Ray's default, other work on the machine comes first
    variables = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=80_000_000,
        runtime_env={"env_vars": variables},
        _node_ip_address="127.0.0.1",
    )
    yield
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("cluster")
def test_trials_report_their_returns_and_leave_no_process(tmp_path: Path) -> None:
    from examples.ray_tune import search

    budget = 12_000
    found = search(3, budget, tmp_path / "tune")
    assert not found.errors
    assert max(result.metrics["env_steps"] for result in found) >= budget
    best = found.get_best_result(scope="all")
    assert best.metrics["episode_return"] >= max(result.metrics["episode_return"] for result in found)
    assert not [
        process for process in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(process.info["cmdline"] or ())
    ]
