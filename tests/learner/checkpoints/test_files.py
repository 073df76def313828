"""Checkpoints: the same continuation to the bit, older ones where the newest is damaged, and one line where none will do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from agent.checkpoint_manifest import DIGEST_KEY, FORMAT_KEY, MANIFEST, MODEL_FILE, file_digest
from agent.loading import load
from learner.checkpoints.files import GENERATOR, OPTIMIZER_FILE, PRIOR_FILE, Beside, restore, save
from learner.progress import Progress
from learner.update.updater import Updater
from oatmill.errors import UserError
from tests.learner.worlds import (
    assert_same_arrays,
    learn,
    make_batch,
    make_spec,
    make_trainer,
    make_updater_of,
    parameters_of,
    shake,
)


def trained(steps: int = 2, arm: str = "full", **spec_settings: Any) -> Updater:
    spec = make_spec(**spec_settings)
    updater = make_updater_of(make_trainer(arm), spec)
    for seed in range(steps):
        learn(updater, make_batch(spec, seed=seed))
    return updater


def fresh(arm: str = "full", **spec_settings: Any) -> Updater:
    updater = make_updater_of(make_trainer(arm), make_spec(**spec_settings))
    shake(updater.context, seed=99)
    return updater


def progress(step: int) -> Progress:
    return Progress(learner_step=step, env_steps=42 * step, policy_version=step + 3, seconds=1.5)


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(("arm", "settings"), [("full", {}), ("baseline", {}), ("full", {"sizes": (40,), "core": "lstm"})])
def test_training_resumed_from_a_checkpoint_equals_uninterrupted_training(
    tmp_path: Path, arm: str, settings: dict[str, Any]
) -> None:
    # 40 actions are drawn from the prior, so the random numbers must go on as well.
    original, resumed = trained(2, arm, **settings), fresh(arm, **settings)
    save(tmp_path, original, progress(2), keep=3)
    assert restore(tmp_path, resumed).progress == progress(2)
    assert_same_arrays(parameters_of(original), parameters_of(resumed))
    assert resumed.updates == original.updates == 8
    assert resumed.context.advantage_scale.state() == original.context.advantage_scale.state()
    for seed in (7, 8):
        records = [
            learn(updater, make_batch(updater.context.model.spec, seed=seed, absent=True)) for updater in (original, resumed)
        ]
        assert torch.equal(*(torch.stack(record.sums) for record in records))
    assert_same_arrays(parameters_of(original), parameters_of(resumed))


def test_a_deleted_run_folder_is_not_created_again(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        save(tmp_path / "deleted" / "checkpoints", trained(1), progress(1), keep=3)
    assert list(tmp_path.iterdir()) == []
    save(tmp_path / "checkpoints", trained(1), progress(1), keep=3)


def test_latest_points_to_the_newest_and_only_the_newest_few_stay(tmp_path: Path) -> None:
    updater = trained(1)
    for step in (5, 9, 10, 30):
        folder = save(tmp_path, updater, progress(step), keep=2)
        assert folder == tmp_path / f"step-{step}"
        assert (tmp_path / "latest").readlink() == Path(f"step-{step}")
    # 9 comes before 10, by number and not by letter.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-10", "step-30"]
    assert load(tmp_path / "latest").manifest["learner_step"] == 30


@pytest.mark.parametrize("file", [MODEL_FILE, PRIOR_FILE, OPTIMIZER_FILE])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path, file: str) -> None:
    updater = trained(1)
    save(tmp_path, updater, progress(1), keep=3)
    learn(updater, make_batch(updater.context.model.spec, seed=5))
    save(tmp_path, updater, progress(2), keep=3)
    damage(tmp_path / "step-2" / file)
    assert restore(tmp_path, fresh()).progress == progress(1)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / MANIFEST).unlink(),
        lambda folder: (folder / MANIFEST).write_text("{"),
        lambda folder: (folder / MANIFEST).write_text("[]"),
        lambda folder: (folder / PRIOR_FILE).unlink(),
    ],
    ids=["no manifest", "half a manifest", "no mapping", "no prior"],
)
def test_half_a_checkpoint_gives_way_to_the_one_before(tmp_path: Path, spoil: Any) -> None:
    updater = trained(1)
    for step in (1, 2):
        save(tmp_path, updater, progress(step), keep=3)
    spoil(tmp_path / "step-2")
    assert restore(tmp_path, fresh()).progress == progress(1)


def plain_manifest(checkpoint: Path, change: Callable[[dict[str, Any]], object] = lambda _: None) -> None:
    """Make it one of format 1, as it was written before manifests had a digest of their own."""
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    del manifest[FORMAT_KEY], manifest[DIGEST_KEY]
    change(manifest)
    (checkpoint / MANIFEST).write_text(json.dumps(manifest))


def test_a_checkpoint_from_before_manifests_had_a_digest_is_loaded(tmp_path: Path) -> None:
    updater = trained(1)
    plain_manifest(save(tmp_path, updater, progress(1), keep=3))
    assert restore(tmp_path, fresh()).progress == progress(1)
    assert load(tmp_path / "step-1").manifest["learner_step"] == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest.pop("normaliser"),
        lambda manifest: manifest.update(normaliser={"moment": "much"}),
        lambda manifest: manifest.update(coefficient_scales=7),
        lambda manifest: manifest.pop("learner_state"),
        lambda manifest: manifest.pop("env_steps"),
        lambda manifest: manifest.update(files={}),
        lambda manifest: manifest.update(files={MODEL_FILE: 1}),
        lambda manifest: manifest["files"].update({"../../x": "0"}),
    ],
)
def test_whatever_makes_no_sense_in_a_checkpoint_gives_way_to_the_one_before(tmp_path: Path, change: Any) -> None:
    updater = trained(1)
    for step in (1, 2):
        save(tmp_path, updater, progress(step), keep=3)
    plain_manifest(tmp_path / "step-2", change)
    restored = restore(tmp_path, fresh())
    assert restored.progress == progress(1)
    assert len(restored.passed_over) == 1
    assert "step-2" in restored.passed_over[0]


def test_arrays_that_are_cut_off_give_way_even_where_their_hash_is_right(tmp_path: Path) -> None:
    updater = trained(1)
    for step in (1, 2):
        save(tmp_path, updater, progress(step), keep=3)
    cut = tmp_path / "step-2" / OPTIMIZER_FILE
    cut.write_bytes(cut.read_bytes()[:-40])
    plain_manifest(tmp_path / "step-2", lambda manifest: manifest["files"].update({OPTIMIZER_FILE: file_digest(cut)}))
    restored = restore(tmp_path, fresh())
    assert restored.progress == progress(1)
    assert "step-2 cannot be loaded: SafetensorError: " in restored.passed_over[0]


def test_a_state_that_the_learner_cannot_take_in_gives_way_too(tmp_path: Path) -> None:
    updater = trained(1)
    for step in (1, 2):
        save(tmp_path, updater, progress(step), keep=3, beside=Beside(state={} if step == 2 else {"reports": 7}))
    taken: list[int] = []
    restored = restore(tmp_path, fresh(), accept=lambda state: taken.append(state["reports"]))
    assert (restored.progress, taken) == (progress(1), [7])
    assert "step-2 cannot be loaded: KeyError: 'reports'" in restored.passed_over[0]


def test_a_checkpoint_that_another_rank_cannot_load_is_passed_over_by_this_one_too(tmp_path: Path) -> None:
    updater = trained(1)
    for step in (1, 2):
        save(tmp_path, updater, progress(step), keep=3)
    # What all ranks come to: the newest step, that one rank could not load it, the next one, that all could.
    others = iter([2.0, 0.0, 1.0, 1.0])
    restored = restore(tmp_path, fresh(), lowest=lambda own: min(own, next(others)))
    assert restored.progress == progress(1)
    assert restored.passed_over == [f"{tmp_path / 'step-2'} could not be loaded by another rank"]


def test_one_checkpoint_that_is_loaded_by_its_name_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = save(tmp_path, trained(1), progress(1), keep=3)
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text.replace('"learner_step": 1', '"learner_step": 3'))
    with pytest.raises(UserError, match=r"manifest\.json is damaged: its digest is not that of its content; take an older"):
        load(folder)
    (folder / MANIFEST).write_text(text.replace('"format": 2', '"format": 3'))
    with pytest.raises(UserError, match=r"manifest\.json is damaged: expected format 2, got 3"):
        load(folder)
    (folder / MANIFEST).write_text(text)
    plain_manifest(folder, lambda manifest: manifest["agent"].clear())
    with pytest.raises(UserError, match=r"step-1 cannot be loaded: KeyError: .*; take another checkpoint"):
        load(folder)


def test_a_damaged_checkpoint_is_replaced_when_training_reaches_its_step_again(tmp_path: Path) -> None:
    updater = trained(1)
    for step in (1, 2):
        save(tmp_path, updater, progress(step), keep=3)
    damage(tmp_path / "step-2" / MODEL_FILE)
    resumed = fresh()
    assert restore(tmp_path, resumed).progress == progress(1)
    save(tmp_path, resumed, progress(2), keep=3)
    assert restore(tmp_path, fresh()).progress == progress(2)
    assert load(tmp_path / "latest").manifest["learner_step"] == 2


def test_a_partial_checkpoint_of_a_crash_is_ignored_and_replaced(tmp_path: Path) -> None:
    updater = trained(1)
    save(tmp_path, updater, progress(1), keep=3)
    half = tmp_path / "step-2.tmp"
    half.mkdir()
    (half / MODEL_FILE).write_bytes(b"half")
    assert restore(tmp_path, fresh()).progress == progress(1)
    save(tmp_path, updater, progress(2), keep=3)
    assert restore(tmp_path, fresh()).progress == progress(2)
    assert not half.exists()


def test_if_all_checkpoints_are_damaged_the_error_gives_the_newest_ones_reason(tmp_path: Path) -> None:
    updater = trained(1)
    for step in (1, 2):
        save(tmp_path, updater, progress(step), keep=3)
        damage(tmp_path / f"step-{step}" / MODEL_FILE)
    with pytest.raises(
        UserError,
        match=r"step-2/model\.safetensors is damaged or missing: its hash is not the one in manifest\.json; take an older "
        r"checkpoint \(the 1 before it cannot be loaded either\)",
    ):
        restore(tmp_path, fresh())


def test_a_run_without_checkpoints_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no checkpoint to resume from; start without --resume"):
        restore(tmp_path, fresh())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_sizes": (9,)}, r"expected \(9,\) for encoder\.layers\.0\.bias, got \(8,\)"),
        ({"core": "gru"}, r"expected \(18,\) for core\.cell\.bias_hh, got nothing"),
    ],
)
def test_a_checkpoint_of_another_network_raises_an_error_that_names_the_array(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    save(tmp_path, trained(1), progress(1), keep=3)
    updater = fresh(**settings)
    before = parameters_of(updater)
    with pytest.raises(UserError, match=rf"model\.safetensors belongs to another network: {message}"):
        restore(tmp_path, updater)
    assert_same_arrays(before, parameters_of(updater))


@pytest.mark.parametrize("asked", [True, False])
def test_a_checkpoint_with_statistics_and_settings_without_them_do_not_fit_nor_the_other_way_round(
    tmp_path: Path, asked: bool
) -> None:
    save(tmp_path, trained(1, normalize_observations=not asked), progress(1), keep=3)
    was, now = str(not asked).lower(), str(asked).lower()
    message = (
        rf"was trained with agent\.normalize_observations={was}, and these settings have {now}: it holds "
        rf"{'no ' if asked else ''}statistics of observations; use the setting that it was trained with"
    )
    with pytest.raises(UserError, match=message):
        restore(tmp_path, fresh(normalize_observations=asked))


def test_a_checkpoint_of_other_losses_raises_an_error(tmp_path: Path) -> None:
    save(tmp_path, trained(1, "baseline"), progress(1), keep=3)
    with pytest.raises(
        UserError,
        match=r"the checkpoint has optimiser states for \d+ arrays, but these settings train \d+; resume with the same losses",
    ):
        restore(tmp_path, fresh("full"))


def test_the_manifest_says_what_was_trained_and_how_far(tmp_path: Path) -> None:
    updater = trained(1)
    folder = save(tmp_path, updater, progress(4), keep=3)
    manifest = json.loads((folder / MANIFEST).read_text())
    assert {name: manifest[name] for name in Progress._fields} == progress(4)._asdict()
    assert manifest["agent"] == json.loads(json.dumps(updater.context.model.spec.to_dict()))
    assert manifest["trainer"]["losses"]["cmpo"]["enabled"] is True
    assert set(manifest["files"]) == {MODEL_FILE, PRIOR_FILE, OPTIMIZER_FILE}


def test_nothing_in_a_checkpoint_is_a_pickle(tmp_path: Path) -> None:
    folder = save(tmp_path, trained(1), progress(1), keep=3)
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}
    assert GENERATOR.encode() in (folder / OPTIMIZER_FILE).read_bytes()


DIES_WHILE_SAVING = """
import sys
from pathlib import Path
from tests.learner.checkpoints.test_files import progress, trained
from learner.checkpoints.files import save
folder, updater = Path(sys.argv[1]), trained(1)
for step in (1, 2):
    save(folder, updater, progress(step), keep=3)
"""


@pytest.mark.parametrize(("point", "newest"), [("checkpoint.rename.before:2", 1), ("checkpoint.rename.after:2", 2)])
def test_a_learner_killed_around_the_rename_leaves_the_checkpoint_before_or_a_whole_new_one(
    tmp_path: Path, point: str, newest: int
) -> None:
    died = subprocess.run(
        [sys.executable, "-c", DIES_WHILE_SAVING, str(tmp_path)],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "OATMILL_FAILPOINT": point},
        check=False,
    )
    assert died.returncode == -signal.SIGKILL
    assert restore(tmp_path, fresh()).progress == progress(newest)


def test_with_an_evaluator_best_is_left_to_it_and_what_it_plays_is_kept(tmp_path: Path) -> None:
    updater = trained(0)
    for step in (1, 2, 3, 4):
        beside = Beside(settings={"evaluator": {"enabled": True}}, episode_return={"mean": float(step), "std": 0.0, "n": 50})
        save(tmp_path / "c", updater, progress(step), keep=1, beside=beside)
        if step == 1:
            (tmp_path / "c" / "playing").symlink_to("step-1")
    assert {path.name for path in (tmp_path / "c").iterdir()} == {"step-1", "step-4", "latest", "playing"}
