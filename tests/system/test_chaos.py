from __future__ import annotations

import json
import subprocess
import sys

import pytest

from deploy.cli.entry import run_command

LEAST_FAULTS = {20: 1, 300: 40}


def test_a_role_that_there_is_not_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["chaos", "--kill", "hub,actor"]) == 2
    assert "oatmill: error: --kill takes some of replay, actor, learner, got hub" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seconds", LEAST_FAULTS)
def test_killed_and_stopped_processes_lose_nothing(seconds: int) -> None:
    command = [sys.executable, "-m", "deploy", "chaos", "--seconds", str(seconds), "--seed", "3", "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=800, check=False)
    report = json.loads(ended.stdout)
    assert (ended.returncode, report["good"], report["lost"]) == (0, True, 0), report
    assert report["faults_survived"] >= LEAST_FAULTS[seconds], report
