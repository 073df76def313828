"""The content of the replay buffer survives its process: a resumed run and a restarted server can sample immediately."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.system.real_runs import SMALL, Train, accounted, all_gone, oatmill, training

SAMPLED = [
    *SMALL,
    "actors.count=1",
    "metrics.report_every=1",
    "trainer.checkpoint_every=5",
    "trainer.losses.ppo_actor.anchor=proximal",
    "replay.fraction=0.5",
    "replay.sampling=prioritised",
]
STEPS = 10 * 4 * 64
"""Env steps of ten batches: the first two have eight fresh trajectories of 64 steps, the others four."""


def lines(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def restored(run_dir: Path) -> list[str]:
    """The lines about the buffer in the replay servers' log."""
    logs = "".join(path.read_text() for path in sorted((run_dir / "logs").glob("replay-*.log")))
    return [line.partition("restored ")[2] for line in logs.splitlines() if "trajectories of the replay buffer" in line]


@pytest.mark.parametrize("acknowledge", ["memory", pytest.param("durable", marks=pytest.mark.slow)])
def test_a_resumed_run_samples_from_its_first_batch(tmp_path: Path, acknowledge: str) -> None:
    run = tmp_path / "run"
    begun = oatmill(
        tmp_path,
        *("train", "cartpole", "--run-dir", "run", *SAMPLED),
        *(f"replay.acknowledge={acknowledge}", f"trainer.total_timesteps={STEPS}"),
    )
    assert begun.returncode == 0, begun.stderr
    first = lines(run)
    assert first[0]["replayed_policy_lag"]["p50"] is None, "a new run's first batch is all fresh"
    assert first[-1]["replayed_policy_lag"]["p50"] > 0
    assert len(list((run / "log" / "buffer").glob("*.buffer"))) == 2
    assert restored(run) == []

    gone_on = oatmill(
        tmp_path,
        "train",
        "cartpole",
        "--run-dir",
        "run",
        "--resume",
        f"trainer.total_timesteps={2 * STEPS}",
        "replay.buffer_size=16",
    )
    assert gone_on.returncode == 0, gone_on.stderr
    again = lines(run)[len(first) :]
    assert again[0]["replayed_policy_lag"]["p50"] > 0, "the first batch already has replayed trajectories"
    (said,) = restored(run)
    kept, _, held = said.split()[:3]
    assert (int(kept), int(held) > 16) == (16, True), "the smaller size of the new settings is used"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["ledger"]["produced"] == accounted(summary["ledger"])


@pytest.mark.slow
def test_a_killed_replay_server_gets_its_buffer_back(tmp_path: Path) -> None:
    with training(tmp_path, *SAMPLED, "trainer.total_timesteps=1000000000") as train:
        train.until(lambda: len(list((train.run_dir / "log" / "buffer").glob("*.buffer"))) == 2)
        (hub,) = train.pids("replay")
        os.kill(psutil.Process(hub).children()[0].pid, signal.SIGKILL)
        train.until(lambda: train.pids("replay") not in ([], [hub]))
        done = train.learner_steps()
        train.until(lambda: train.learner_steps() >= done + 5)
        assert len(restored(train.run_dir)) == 1
        stop_in_order(train, tmp_path)


def stop_in_order(train: Train, folder: Path) -> None:
    assert oatmill(folder, "stop").returncode == 0
    assert train.end() == 0, train.errors.read_text()
    assert all_gone(train.run_dir)
