"""Batches that are kept for a look: whole, few, and never in the run's way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from learner.checkpoints import bad_batches
from learner.checkpoints.bad_batches import keep_batch
from tests.learner.checkpoints.test_keeper import files_no_longer_than
from tests.learner.worlds import make_batch, make_spec


def test_a_kept_batch_is_read_back_without_pickle(tmp_path: Path) -> None:
    batch = replace(make_batch(make_spec()), learner_step=6)
    batch.rewards[0, 0] = np.nan
    path = keep_batch(tmp_path, batch, rank=1, world_size=2)
    assert path == tmp_path / "quarantine" / "batches" / "step-7-rank-1.npz"
    with np.load(path, allow_pickle=False) as loaded:
        np.testing.assert_array_equal(loaded["rewards"], batch.rewards)
        np.testing.assert_array_equal(loaded["observations"], batch.observations)
        assert set(loaded) > {"actions", "behaviour_logits", "core_state", "final_observations", "fresh", "policy_version"}


def test_the_first_few_are_kept_and_the_others_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = make_batch(make_spec())
    kept = [keep_batch(tmp_path, replace(batch, learner_step=step), rank=0, world_size=1) for step in range(12)]
    assert [path is not None for path in kept] == [True] * bad_batches.MAX_FILES + [False] * 4
    monkeypatch.setattr(bad_batches, "MAX_BYTES", 100)
    assert keep_batch(tmp_path / "other", batch, rank=0, world_size=1) is None
    assert not (tmp_path / "other" / "quarantine").exists()


def test_a_deleted_run_folder_is_not_created_again(tmp_path: Path) -> None:
    assert keep_batch(tmp_path / "deleted", make_batch(make_spec()), rank=0, world_size=1) is None
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_keeps_nothing_and_ends_nothing(tmp_path: Path) -> None:
    with files_no_longer_than(100):
        assert keep_batch(tmp_path, make_batch(make_spec()), rank=0, world_size=1) is None
    assert list((tmp_path / "quarantine" / "batches").iterdir()) == []
