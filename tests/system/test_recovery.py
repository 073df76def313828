"""A run with non-finite numbers, with a full disk, and with ranks that die, stop or get no data. Real processes."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.system.real_runs import ENDLESS, Train, accounted, all_gone, oatmill, training

POISON = '''
"""A loss that is NaN on the last rank as long as a file exists in its folder."""

import os
from pathlib import Path

import torch

from learner.loss import Choice, Loss, Term

FILE = Path(__file__).with_name("poison")
LAST = int(os.environ.get("WORLD_SIZE", "1")) - 1 == int(os.environ.get("RANK", "0"))


class Poison(Loss):
    name = "poison"

    def __init__(self, context):
        pass

    def compute(self, *, logits_BTA, mask_BT):
        bad = float("nan") if LAST and FILE.exists() else 0.0
        return {"value": Term(logits_BTA.sum(-1) * 0.0 + bad, mask_BT, 1.0)}


def choose(_question):
    return Choice(Poison)
'''
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
QUICK = [*ENDLESS, "trainer.checkpoint_every=4", "metrics.report_every=1"]


def events(train: Train, name: str) -> list[dict[str, Any]]:
    return [event for event in train.events() if event["event"] == name]


def lines(train: Train) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (train.run_dir / "metrics.jsonl").read_text().splitlines()]


def ends_well(train: Train, folder: Path) -> dict[str, Any]:
    """Stop a run, wait until all its processes have ended, check its ledger, and return its summary."""
    assert oatmill(folder, "stop").returncode == 0
    assert train.end() == 0, train.errors.read_text()
    summary = train.summary()
    assert summary["ledger"]["produced"] == accounted(summary["ledger"])
    assert summary["ledger"]["lost"] == 0
    assert all_gone(train.run_dir)
    return summary


@pytest.mark.parametrize("ranks", [1, 2])
def test_three_steps_with_nan_on_one_rank_rewind_all_ranks_to_the_checkpoint(tmp_path: Path, ranks: int) -> None:
    (tmp_path / "poison_loss.py").write_text(POISON)
    with training(tmp_path, "--learners", str(ranks), *QUICK, "trainer.extra_losses=[poison_loss:choose]") as train:
        train.until(lambda: train.learner_steps() >= 6)
        (tmp_path / "poison").touch()
        train.until(lambda: bool(events(train, "rewound")))
        (tmp_path / "poison").unlink()
        done = train.learner_steps()
        train.until(lambda: train.learner_steps() > done + 6)
        summary = ends_well(train, tmp_path)

        rewound = events(train, "rewound")
        assert all(event["to_step"] % 4 == 0 < event["from_step"] - event["to_step"] for event in rewound)
        skipped = events(train, "batch_not_finite")
        assert len(skipped) >= 3
        assert all(set(event["nonfinite"]) == {"poison"} and event["skipped_updates"] for event in skipped)
        kept = Path(skipped[0]["file"])
        assert len(list(kept.parent.glob(f"{kept.name.split('-rank')[0]}-rank-*.npz"))) == ranks, "every rank keeps its part"
        with np.load(kept, allow_pickle=False) as batch:
            assert np.isfinite(batch["rewards"]).all(), "the loss was the cause, not the data"
        versions = [line["policy_version"] for line in lines(train)]
        assert versions == sorted(set(versions)), "no version was used twice"
        assert summary["ledger"]["dropped"]["rolled_back"] > 0
        assert summary["ledger"]["trained"] == 8 * summary["learner_steps"], "8 trajectories per step that was kept"
        assert "rewinding from learner step" in (tmp_path / "stderr.txt").read_text() + (tmp_path / "stdout.txt").read_text()
        assert not [event for event in train.events() if event["event"] == "learner_restarted"]


def test_a_run_that_is_never_finite_again_ends_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "poison_loss.py").write_text(POISON)
    arguments = ["trainer.extra_losses=[poison_loss:choose]", "trainer.max_rewinds=2"]
    with training(tmp_path, *QUICK, *arguments) as train:
        train.until(lambda: train.learner_steps() >= 5)
        (tmp_path / "poison").touch()
        assert train.end() == 1
        assert len(events(train, "rewound")) == 2
        said = train.errors.read_text().splitlines()[-1]
        assert "were not finite, after 2 rewinds to the last checkpoint in a row; lower" in said
        assert all_gone(train.run_dir)


def test_a_disk_that_is_full_for_some_time_costs_a_checkpoint_but_not_the_run(tmp_path: Path) -> None:
    with training(tmp_path, *QUICK, "agent.hidden_sizes=[256,256]") as train:
        train.until((train.run_dir / "checkpoints" / "latest").exists)
        learner = psutil.Process(train.pids("learner")[0])
        before = learner.rlimit(psutil.RLIMIT_FSIZE)
        # No file may be larger than 200 KB. A checkpoint's arrays are larger; metrics.jsonl is still smaller.
        learner.rlimit(psutil.RLIMIT_FSIZE, (200_000, before[1]))
        train.until(lambda: bool(events(train, "checkpoint_failed")))
        kept = (train.run_dir / "checkpoints" / "latest").resolve().name
        assert not list((train.run_dir / "checkpoints").glob("*.tmp"))
        done = train.learner_steps()
        train.until(lambda: train.learner_steps() > done + 2)
        assert "checkpoint_failed" in lines(train)[-1]["red_flags"]
        learner.rlimit(psutil.RLIMIT_FSIZE, before)
        train.until(lambda: bool(events(train, "checkpoint_written_again")))
        assert (train.run_dir / "checkpoints" / "latest").resolve().name != kept
        ends_well(train, tmp_path)
        shown = oatmill(tmp_path, "eval", str(train.run_dir / "checkpoints" / "latest"), "--episodes", "1")
        assert shown.returncode == 0, shown.stderr


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("freed", [True, False], ids=["freed", "stopped"])
def test_the_end_of_a_run_waits_until_its_last_checkpoint_can_be_written(tmp_path: Path, ranks: int, freed: bool) -> None:
    arguments = [*QUICK, "agent.hidden_sizes=[256,256]", "trainer.total_timesteps=20000", "trainer.checkpoint_every=100000"]
    with training(tmp_path, "--learners", str(ranks), *arguments) as train:
        train.until(lambda: train.learner_steps() >= 1 and len(train.pids("learner")) == ranks)
        learner = psutil.Process(train.pids("learner")[0])
        before = learner.rlimit(psutil.RLIMIT_FSIZE)
        learner.rlimit(psutil.RLIMIT_FSIZE, (200_000, before[1]))
        train.until(lambda: bool(events(train, "checkpoint_failed")))
        time.sleep(3)  # for more attempts
        (failed,) = events(train, "checkpoint_failed")
        assert failed["text"].endswith(
            "; the run waits until it can be written: free disk space, or stop the run; there is no other one"
        )
        if freed:
            learner.rlimit(psutil.RLIMIT_FSIZE, before)
        else:
            assert oatmill(tmp_path, "stop").returncode == 0
        assert train.end() == int(not freed)
        said = train.errors.read_text()
        shown = (tmp_path / "stdout.txt").read_text() + said
        assert failed["text"] in shown
        if freed:
            assert "was written; the disk has space again" in shown
            assert (train.run_dir / "checkpoints" / "latest").resolve().name == f"step-{train.summary()['learner_steps']}"
        else:
            assert "the last checkpoint could not be written: " in said.splitlines()[-1]
            assert "; free disk space and start again: there is no other one; its log is " in said.splitlines()[-1]
        assert all_gone(train.run_dir)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
@pytest.mark.parametrize("victim", [0, 1])
def test_two_ranks_continue_from_a_checkpoint_after_one_was_lost(tmp_path: Path, number: signal.Signals, victim: int) -> None:
    arguments = ["--learners", "2", *QUICK, "trainer.distributed_timeout=20"]
    with training(tmp_path, *arguments) as train:
        train.until(lambda: train.learner_steps() >= 6 and len(train.pids("learner")) == 2, within_s=150)
        before = train.pids("learner")
        os.kill(before[victim], number)
        reported = train.learner_steps()
        # The other rank notices a stopped rank after 20 s. The stopped rank then has 5 s to end before it is killed.
        train.until(lambda: train.learner_steps() > reported + 3, within_s=150)
        assert set(train.pids("learner")).isdisjoint(before)
        assert not [pid for pid in before if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]
        summary = ends_well(train, tmp_path)
        assert summary["ledger"]["trained"] == 8 * summary["learner_steps"]


def test_ranks_without_data_end_together_with_the_reason(tmp_path: Path) -> None:
    with training(tmp_path, "--learners", "2", *QUICK, "trainer.data_timeout=20") as train:
        train.until(lambda: train.learner_steps() >= 2, within_s=150)
        for pid in train.pids("actor"):
            os.kill(pid, signal.SIGSTOP)
        assert train.end() == 1
        assert "no batch of 8 trajectories arrived within 20 s" in train.errors.read_text().splitlines()[-1]
        assert all_gone(train.run_dir)


def test_after_sigterm_to_every_rank_a_checkpoint_is_saved_and_the_run_ends_in_order(tmp_path: Path) -> None:
    with training(tmp_path, "--learners", "2", *QUICK, "trainer.checkpoint_every=1000") as train:
        train.until(lambda: train.learner_steps() >= 3 and len(train.pids("learner")) == 2)
        os.kill(train.pids("learner")[1], signal.SIGTERM)  # one rank is enough, because all ranks agree to stop
        assert train.end() == 0, train.errors.read_text()
        assert (train.run_dir / "checkpoints" / "latest").resolve().name == f"step-{train.summary()['learner_steps']}"
        ledger = train.summary()["ledger"]
        assert ledger["produced"] == accounted(ledger)
        assert all_gone(train.run_dir)
