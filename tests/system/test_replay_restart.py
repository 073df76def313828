"""The replay server is killed during a real run: all processes continue, and the ledger accounts for everything."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from protocol.channels import ControlClient
from tests.system.real_runs import ENDLESS, Train, accounted, all_gone, oatmill, training

EVERY_STEP = ["metrics.report_every=1", "trainer.checkpoint_every=5", "actors.count=2"]


def kill_replay(train: Train, *, ingest: bool = False) -> float:
    """Kill one of the server's two processes, wait until training continues, and return how long that took."""
    (hub,) = train.pids("replay")
    victim = psutil.Process(hub).children()[0].pid if ingest else hub
    done = train.learner_steps()
    os.kill(victim, signal.SIGKILL)
    began = time.monotonic()
    train.until(lambda: train.pids("replay") not in ([], [hub]))
    # Batches that were handed out before are trained on in any case. Five learner steps need new trajectories.
    train.until(lambda: train.learner_steps() >= done + 5)
    return time.monotonic() - began


def ledger_of(folder: Path) -> Any:
    """The newest run's status from its hub."""
    endpoint = json.loads((folder / "run" / "run.json").read_text())["control"]
    client = ControlClient(endpoint, role="operator", description={})
    try:
        return client.request("status", {})["ledger"]
    finally:
        client.close()


def stopped_in_order(train: Train, folder: Path) -> None:
    stopped = oatmill(folder, "stop")
    assert stopped.returncode == 0, stopped.stderr
    assert train.end() == 0, train.errors.read_text()
    assert all_gone(train.run_dir)


@pytest.mark.parametrize("ingest", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_in_durable_mode_a_killed_replay_server_loses_nothing(tmp_path: Path, ingest: bool) -> None:
    with training(tmp_path, *ENDLESS, *EVERY_STEP, "replay.acknowledge=durable") as train:
        train.until(lambda: train.learner_steps() >= 4)
        actors, learner = train.pids("actor"), train.pids("learner")
        kill_replay(train, ingest=ingest)
        assert (train.pids("actor"), train.pids("learner")) == (actors, learner), "no other process was restarted"
        stopped_in_order(train, tmp_path)
        summary = train.summary()
        ledger = summary["ledger"]
        assert ledger["produced"] == accounted(ledger)
        assert (ledger["lost"], ledger["in_flight"]) == (0, 0)
        assert ledger["trained"] == 8 * summary["learner_steps"], "8 trajectories per step, none twice, none left out"
        assert summary["actor_restarts"] == 0
        lines = [json.loads(line) for line in (train.run_dir / "metrics.jsonl").read_text().splitlines()]
        versions = [line["policy_version"] for line in lines]
        assert versions == sorted(set(versions)), "no version was used twice"
        assert [event["event"] for event in train.events()].count("replay_restarted") == 1
        manifest = json.loads((train.run_dir / "checkpoints" / "latest" / "manifest.json").read_text())
        assert manifest["replay"]["cursor"] > 0
        assert not [path for path in (train.run_dir / "log").glob("*.log") if path.stat().st_size > 2 * 64 * 2**20]


@pytest.mark.slow
def test_in_memory_mode_the_data_of_a_killed_replay_server_is_counted_as_lost(tmp_path: Path) -> None:
    with training(tmp_path, *ENDLESS, *EVERY_STEP, "replay.queue_batches=8") as train:
        train.until(lambda: train.learner_steps() >= 4)
        actors, (learner,) = train.pids("actor"), train.pids("learner")
        os.kill(learner, signal.SIGSTOP)
        train.until(lambda: ledger_of(tmp_path)["queued"] > 16)
        (hub,) = train.pids("replay")
        os.kill(hub, signal.SIGKILL)
        os.kill(learner, signal.SIGCONT)
        done = train.learner_steps()
        train.until(lambda: train.learner_steps() >= done + 5)
        assert train.pids("actor") == actors
        stopped_in_order(train, tmp_path)
        summary = train.summary()
        ledger = summary["ledger"]
        assert ledger["produced"] == accounted(ledger)
        assert ledger["trained"] == 8 * summary["learner_steps"]
        assert ledger["lost"] > 0
        assert "without the data in its memory, which is lost" in (tmp_path / "stdout.txt").read_text()


@pytest.mark.slow
def test_a_killed_learner_repeats_the_training_after_its_checkpoint_if_that_is_set(tmp_path: Path) -> None:
    again = ["replay.acknowledge=durable", "replay.on_learner_restart=replay"]
    with training(tmp_path, *ENDLESS, *again, "trainer.checkpoint_every=4", "metrics.report_every=1") as train:
        train.until(lambda: train.learner_steps() >= 7)
        (victim,) = train.pids("learner")
        os.kill(victim, signal.SIGKILL)
        reported = train.learner_steps()
        train.until(lambda: train.learner_steps() > reported + 6)
        stopped_in_order(train, tmp_path)
        summary = train.summary()
        ledger = summary["ledger"]
        assert ledger["produced"] == accounted(ledger)
        assert (ledger["lost"], ledger["dropped"]["rolled_back"]) == (0, 0)
        assert ledger["trained"] == 8 * summary["learner_steps"]
