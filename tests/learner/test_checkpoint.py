"""Checkpoints: the same continuation to the bit, older ones where the newest is damaged, and one line where none will do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from agent.loading import MANIFEST, MODEL_FILE, load
from learner.checkpoint import GENERATOR, OPTIMIZER_FILE, PRIOR_FILE, Progress, restore, save
from learner.step import Updater
from protocol.errors import UserError
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
def test_training_goes_on_from_a_checkpoint_as_if_it_had_never_stopped(
    tmp_path: Path, arm: str, settings: dict[str, Any]
) -> None:
    # 40 actions are drawn from the prior, so the random numbers must go on as well.
    original, resumed = trained(2, arm, **settings), fresh(arm, **settings)
    save(tmp_path, original, progress(2), keep=3)
    assert restore(tmp_path, resumed).progress == progress(2)
    assert_same_arrays(parameters_of(original), parameters_of(resumed))
    assert resumed.updates == original.updates == 8
    assert resumed.context.normaliser.state() == original.context.normaliser.state()
    for seed in (7, 8):
        records = [
            learn(updater, make_batch(updater.context.model.spec, seed=seed, absent=True)) for updater in (original, resumed)
        ]
        assert torch.equal(*(torch.stack(record.sums) for record in records))
    assert_same_arrays(parameters_of(original), parameters_of(resumed))


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


def test_a_damaged_checkpoint_is_written_anew_when_training_reaches_its_step_again(tmp_path: Path) -> None:
    updater = trained(1)
    for step in (1, 2):
        save(tmp_path, updater, progress(step), keep=3)
    damage(tmp_path / "step-2" / MODEL_FILE)
    resumed = fresh()
    assert restore(tmp_path, resumed).progress == progress(1)
    save(tmp_path, resumed, progress(2), keep=3)
    assert restore(tmp_path, fresh()).progress == progress(2)
    assert load(tmp_path / "latest").manifest["learner_step"] == 2


def test_what_was_left_of_a_crash_while_saving_is_no_checkpoint_and_in_nobodys_way(tmp_path: Path) -> None:
    updater = trained(1)
    save(tmp_path, updater, progress(1), keep=3)
    half = tmp_path / "step-2.tmp"
    half.mkdir()
    (half / MODEL_FILE).write_bytes(b"half")
    assert restore(tmp_path, fresh()).progress == progress(1)
    save(tmp_path, updater, progress(2), keep=3)
    assert restore(tmp_path, fresh()).progress == progress(2)
    assert not half.exists()


def test_where_all_are_damaged_the_reason_is_said_in_one_line(tmp_path: Path) -> None:
    save(tmp_path, trained(1), progress(1), keep=3)
    damage(tmp_path / "step-1" / MODEL_FILE)
    with pytest.raises(UserError, match=r"model\.safetensors is damaged or missing: its hash is not the one in manifest\.json"):
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
def test_another_networks_checkpoint_is_refused_naming_the_array(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    save(tmp_path, trained(1), progress(1), keep=3)
    updater = fresh(**settings)
    before = parameters_of(updater)
    with pytest.raises(UserError, match=rf"model\.safetensors is of another network: {message}"):
        restore(tmp_path, updater)
    assert_same_arrays(before, parameters_of(updater))


def test_a_checkpoint_of_other_losses_is_refused(tmp_path: Path) -> None:
    save(tmp_path, trained(1, "baseline"), progress(1), keep=3)
    with pytest.raises(
        UserError, match=r"the checkpoint trained \d+ arrays and these settings train \d+; resume with the losses"
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
from tests.learner.test_checkpoint import progress, trained
from learner.checkpoint import save
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
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OATMILL_FAILPOINT": point},
        check=False,
    )
    assert died.returncode == -signal.SIGKILL
    assert restore(tmp_path, fresh()).progress == progress(newest)
