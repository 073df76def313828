"""A run whose disk is full: processes die, it is told to stop, and it ends in order with a summary."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.small_disks import fill, mounted
from tests.system.real_runs import ENDLESS, Train, training

pytestmark = pytest.mark.slow
LARGE = "agent.hidden_sizes=[256,256]"
"""Settings with a network whose checkpoint does not fit into the space that is reserved for events."""
CHECKPOINTS = ("trainer.checkpoint_every=5", "trainer.keep_checkpoints=2")


@pytest.fixture
def small_run(tmp_path: Path) -> Iterator[Path]:
    """A folder in which `run` is a file system of 24 MB."""
    with mounted(tmp_path / "run", 24):
        yield tmp_path


def fill_until_no_checkpoint_fits(train: Train) -> None:
    """Fill the disk until a checkpoint has failed, and fill the space that the failed checkpoint has freed.

    A checkpoint that is being written at this moment may still succeed. It then frees the space of the oldest one.
    """
    train.until(lambda: bool(fill(train.run_dir)) and any(line["event"] == "checkpoint_failed" for line in train.events()))
    fill(train.run_dir)


def kill_one(train: Train, role: str, event: str) -> None:
    """Kill a process, and wait until the supervisor reports that it has started another one."""
    before = sum(line["event"] == event for line in train.events())
    (pid, *_) = train.pids(role)
    os.kill(pid, signal.SIGKILL)
    train.until(lambda: sum(line["event"] == event for line in train.events()) > before)


def test_processes_die_while_the_disk_is_full_and_the_run_continues_when_there_is_space(small_run: Path) -> None:
    with training(small_run, *ENDLESS, *CHECKPOINTS) as train:
        train.until(lambda: train.learner_steps() >= 10)
        ballast = fill(train.run_dir)
        kill_one(train, "actor", "actor_restarted")
        kill_one(train, "replay", "replay_restarted")
        kill_one(train, "learner", "learner_restarted")
        assert train.process.poll() is None, train.errors.read_text()
        ballast.unlink()
        before = train.learner_steps()
        train.until(lambda: train.learner_steps() >= before + 10)
        train.process.send_signal(signal.SIGTERM)
        assert train.end() == 0, train.errors.read_text()
    summary = train.summary()
    assert summary["outcome"] == "stopped"
    assert "defect" not in train.errors.read_text()
    assert not (train.run_dir / ".reserve").exists()


@pytest.mark.parametrize("death", ["supervisor", "learner"])
def test_a_run_that_is_stopped_while_the_disk_is_full_ends_in_order_with_a_summary(small_run: Path, death: str) -> None:
    with training(small_run, *ENDLESS, *CHECKPOINTS, LARGE, "trainer.max_restarts=0") as train:
        train.until(lambda: train.learner_steps() >= 10)
        fill_until_no_checkpoint_fits(train)
        if death == "supervisor":
            train.process.send_signal(signal.SIGTERM)
        else:
            os.kill(train.pids("learner")[0], signal.SIGKILL)
        code = train.end()
    assert code == 1, "what was learned since the last checkpoint is not on the disk"
    assert train.summary()["outcome"] == "failed"
    assert train.events()[-1]["event"] == "ended"
    lines = train.errors.read_text()
    assert "defect" not in lines
    assert "Traceback" not in lines
    if death == "supervisor":
        assert "the last checkpoint could not be written: " in lines, "although the learner's log is on the full disk"
