"""The example that runs trials through Ray Tune, on a Ray of two CPUs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.system.real_runs import environment

SEARCH = """
import json, ray
from pathlib import Path
from examples.ray_tune import search

ray.init(num_cpus=2, include_dashboard=False, object_store_memory=80_000_000, _node_ip_address="127.0.0.1")
found = search(3, 12_000, Path("tune"))
best = found.get_best_result(scope="all")
numbers = [[result.metrics["env_steps"], result.metrics["episode_return"]] for result in found]
Path("found.json").write_text(json.dumps({"errors": len(found.errors), "trials": numbers, "best": best.config}))
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_trials_report_their_returns_and_leave_no_process(tmp_path: Path) -> None:
    pytest.importorskip("ray.tune", reason="needs ray[tune]", exc_type=ImportError)
    # With 15, Ray's default, other work on the machine comes first.
    variables = environment() | {"RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        [sys.executable, "-c", SEARCH], cwd=tmp_path, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["errors"] == 0
    assert len(found["trials"]) == 3
    full = sum(steps >= 12_000 for steps, _ in found["trials"])
    assert len(list(tmp_path.glob("tune/*/summary.json"))) == full >= 1, "a trial that is not ended early ends as any run does"
    assert 1e-5 <= found["best"]["trainer.optimizer.learning_rate"] <= 1e-1
    assert not [
        process for process in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(process.info["cmdline"] or ())
    ]
