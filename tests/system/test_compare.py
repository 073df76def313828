"""`oatmill compare` with real runs: it can be stopped, continues where it stopped, and repeats no finished run."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.system.real_runs import SMALL, accept_ctrl_c, all_gone, command, environment, oatmill

SETTINGS = [*SMALL, "actors.count=1", "trainer.total_timesteps=15000", "trainer.losses.muesli_model.policy_pred_coef=0.1"]
ARGUMENTS = ["compare", "cartpole", "--out", "cmp", "--arms", "baseline,muesli", "--seeds", "1", *SETTINGS]


@pytest.mark.slow
def test_it_continues_after_ctrl_c_and_keeps_finished_runs(tmp_path: Path) -> None:
    first, second = (tmp_path / "cmp" / "runs" / arm / "seed-0" for arm in ("baseline", "muesli"))
    process = subprocess.Popen(
        command(*ARGUMENTS),
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        preexec_fn=accept_ctrl_c,  # noqa: PLW1509  (this process has no threads)
    )
    deadline = time.monotonic() + 90
    while not (second / "metrics.jsonl").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "stopped with 1 of 2 runs finished; the same command continues" in errors
    assert all_gone(second)
    written = (first / "summary.json").stat().st_mtime_ns
    done = oatmill(tmp_path, *ARGUMENTS, "--json", timeout_s=120)
    assert done.returncode == 0, done.stderr
    assert "run 1 of 2: baseline, seed 0 was finished before" in done.stderr
    assert (first / "summary.json").stat().st_mtime_ns == written
    report = json.loads(done.stdout)
    assert report["reference"] == "baseline"
    assert report["arms"]["muesli"]["seeds"] == [0]
    assert report["arms"]["muesli"]["losses"]["muesli_model"]["gradient_share"] > 0
    assert "Use at least `--seeds 4`" in report["verdict"][1]
    other = oatmill(tmp_path, *ARGUMENTS, "trainer.gamma=0.9")
    assert other.returncode == 2
    assert "was run with trainer.gamma=0.99" in other.stderr
