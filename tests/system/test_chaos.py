from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from deploy.cli.entry import run_command
from tests.system.real_runs import all_gone, processes_of

RECOVERS_WITHIN_S = {"actor": 5.0, "replay": 5.0, "learner": 15.0}
"""The 99th percentile of each role's recovery time, in seconds."""


def test_an_unknown_role_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["chaos", "--kill", "hub,actor"]) == 2
    assert "oatmill: error: --kill takes some of replay, actor, learner, got hub" in capsys.readouterr().err


def test_an_unknown_fault_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["chaos", "--fault", "kill,fire"]) == 2
    known = "kill, stop, supervisor, slow, disk, flood, flip, clock"
    assert f"oatmill: error: --fault takes some of {known}, got fire" in capsys.readouterr().err


def chaos(seconds: int) -> dict[str, Any]:
    """The report of a run with faults for some time. It must account for everything that was produced, and lose nothing."""
    command = [sys.executable, "-m", "deploy", "chaos", "--seconds", str(seconds), "--seed", "3", "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 270, check=False)
    assert ended.stdout, ended.stderr
    report: dict[str, Any] = json.loads(ended.stdout)
    assert (ended.returncode, report["good"], report["lost"]) == (0, True, 0), report
    assert report["accounted"] == report["produced"] > 0, report
    sys.stdout.write(f"{json.dumps(report)}\n")  # shown by pytest -s
    return report


@pytest.mark.timeout(600)
def test_a_run_with_faults_loses_nothing() -> None:
    assert chaos(20)["faults_survived"] >= 1


@pytest.mark.timeout(120)
def test_the_run_ends_when_chaos_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deploy", "chaos", "--seconds", "600"]
    process = subprocess.Popen(command, env={**os.environ, "TMPDIR": str(tmp_path)}, stderr=subprocess.DEVNULL)
    try:
        while not list(tmp_path.glob("*/run/run.json")):
            assert process.poll() is None
            time.sleep(0.1)
        (run,) = psutil.Process(process.pid).children()
        run.suspend()  # as the fault `supervisor` does
        process.kill()
        process.wait()
        assert all_gone(tmp_path)
    finally:
        for left in processes_of(tmp_path):
            left.kill()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_forty_killed_processes_lose_nothing_and_are_soon_replaced() -> None:
    report = chaos(300)
    faults = report["faults"]
    assert sum(count for fault, count in faults.items() if fault.endswith("killed")) >= 40, report
    assert faults.get("learner killed", 0) >= 3, report
    p99 = {role: times["p99"] for role, times in report["recovery_seconds"].items()}
    assert all(p99[role] < within for role, within in RECOVERS_WITHIN_S.items()), report
