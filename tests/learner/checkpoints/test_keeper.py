"""When checkpoints cannot be written, which ones stay, and which one a run goes back to."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from agent.checkpoint_manifest import MANIFEST, MODEL_FILE, read_manifest
from learner.checkpoints.files import GENERATOR, Beside, restore, save
from learner.checkpoints.keeper import Keeper
from learner.progress import Progress
from learner.update.updater import Updater
from oatmill.errors import UserError
from tests.learner.worlds import (
    ONE,
    assert_same_arrays,
    learn,
    make_batch,
    make_spec,
    make_trainer,
    make_updater_of,
    parameters_of,
)


def make(**spec_settings: Any) -> Updater:
    spec = make_spec(**spec_settings)
    updater = make_updater_of(make_trainer("full"), spec)
    learn(updater, make_batch(spec))
    return updater


def keeper(folder: Path, updater: Updater, **how: Any) -> Keeper:
    return Keeper(folder, keep=how.pop("keep", 2), updater=updater, ranks=ONE, **how)


def at(step: int) -> Progress:
    return Progress(learner_step=step, env_steps=42 * step, policy_version=step + 3, seconds=1.5)


def nothing() -> Mapping[str, Any]:
    return {}


def ignore(_state: Mapping[str, Any]) -> None:
    """Take any state."""


def episodes(mean: float | None, n: int = 100) -> dict[str, Any]:
    return {"mean": mean, "std": 0.0, "n": n}


@contextmanager
def files_no_longer_than(limit: int) -> Iterator[None]:
    """The kernel's own limit: a write beyond it fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("limit", [0, 300, 6000])
def test_where_a_checkpoint_cannot_be_written_the_one_before_stays_and_nothing_half_written(tmp_path: Path, limit: int) -> None:
    # 0 fails at the first byte, 300 within the model, 6000 in a later file.
    updater = make(hidden_sizes=(32,))
    kept = keeper(tmp_path, updater)
    assert kept.save(at(1), state=nothing)
    with files_no_longer_than(limit):
        assert not kept.save(at(2), state=nothing)
    assert kept.failure
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["latest", "step-1"]
    assert read_manifest(tmp_path / "checkpoints" / "latest")["learner_step"] == 1
    assert kept.save(at(2), state=nothing), "there is room again"
    assert not kept.failure
    assert read_manifest(tmp_path / "checkpoints" / "latest")["learner_step"] == 2


def test_the_best_checkpoint_is_kept_with_the_newest_ones(tmp_path: Path) -> None:
    kept = keeper(tmp_path, make())
    returns = {1: episodes(5.0), 2: episodes(9.0), 3: episodes(8.0), 4: episodes(99.0, n=3), 5: episodes(None, 0), 6: None}
    for step, episode_return in returns.items():
        assert kept.save(at(step), state=nothing, episode_return=episode_return)
    # Step 4 had three lucky episodes, which is too few to tell.
    folder = tmp_path / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["best", "latest", "step-2", "step-5", "step-6"]
    assert (folder / "best").readlink() == Path("step-2")
    assert read_manifest(folder / "best")["episode_return"]["mean"] == 9.0
    assert kept.save(at(7), state=nothing, episode_return=episodes(9.5))
    assert sorted(path.name for path in folder.iterdir()) == ["best", "latest", "step-6", "step-7"]


def test_a_run_goes_back_to_the_newest_whole_checkpoint_and_names_the_damaged_ones(tmp_path: Path) -> None:
    updater = make()
    kept = keeper(tmp_path, updater, keep=3)
    kept.save(at(1), state=lambda: {"reports": 3})
    before = parameters_of(updater)
    for step in (2, 3):
        learn(updater, make_batch(updater.context.model.spec, seed=step))
        kept.save(at(step), state=nothing)
        (tmp_path / "checkpoints" / f"step-{step}" / MODEL_FILE).write_bytes(b"no network")
    states: list[Mapping[str, Any]] = []
    restored = kept.restore(states.append)
    assert (restored.progress, restored.path.name, restored.state) == (at(1), "step-1", {"reports": 3})
    assert states == [restored.state]
    assert [("step-3" in line, "step-2" in line) for line in restored.passed_over] == [(True, False), (False, True)]
    assert_same_arrays(before, parameters_of(updater))


def test_where_there_is_nothing_to_go_back_to_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no checkpoint to resume from"):
        keeper(tmp_path, make()).restore(ignore)


def test_what_a_crash_has_left_is_swept_away(tmp_path: Path) -> None:
    kept = keeper(tmp_path, make())
    kept.save(at(1), state=nothing)
    (tmp_path / "checkpoints" / "step-7.tmp").mkdir()
    kept.sweep()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["latest", "step-1"]


def test_a_checkpoint_is_saved_once_per_step_and_again_after_a_rewind(tmp_path: Path) -> None:
    updater = make()
    save(tmp_path, updater, at(2), keep=3)
    before = (tmp_path / "step-2" / MANIFEST).stat().st_mtime_ns
    save(tmp_path, updater, at(2), keep=3)
    assert (tmp_path / "step-2" / MANIFEST).stat().st_mtime_ns == before
    # The same learner step of another line of the run: its versions are higher.
    save(tmp_path, updater, at(2)._replace(policy_version=77), keep=3)
    assert read_manifest(tmp_path / "step-2")["policy_version"] == 77


def test_each_rank_gets_its_own_random_numbers_back(tmp_path: Path) -> None:
    updater = make()
    states = [torch.Generator().manual_seed(seed).get_state() for seed in (4, 5)]
    save(tmp_path, updater, at(1), keep=1, beside=Beside(generators=states))
    for rank in (0, 1):
        restore(tmp_path, updater, rank=rank)
        assert torch.equal(updater.context.generator.get_state(), states[rank])
    restore(tmp_path, updater, rank=2)  # a rank that the checkpoint does not know keeps what it has
    assert torch.equal(updater.context.generator.get_state(), states[1])
    assert GENERATOR == "generator."


def test_the_manifest_contains_the_runs_settings(tmp_path: Path) -> None:
    settings = {"env": {"kind": "gymnasium", "id": "CartPole-v1"}}
    kept = keeper(tmp_path, make(), settings=settings)
    kept.save(at(1), state=nothing)
    assert json.loads((tmp_path / "checkpoints" / "step-1" / MANIFEST).read_text())["settings"] == settings
