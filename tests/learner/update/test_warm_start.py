"""Warm starts and frozen parts: what is taken over by name, what is named, and what training leaves alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from agent.model import AgentModel, saved_tensors
from learner.checkpoints.files import save
from learner.progress import Progress
from learner.update.updater import Updater
from learner.update.warm_start import freeze, warm_start
from oatmill.errors import UserError
from tests.learner.worlds import learn, make_batch, make_spec, make_trainer, make_updater_of


def saved(folder: Path, **spec: Any) -> tuple[Path, Updater]:
    updater = make_updater_of(make_trainer("baseline"), make_spec(**spec))
    if updater.context.model.normaliser is not None:
        updater.context.model.normaliser.merge(torch.tensor(9.0), torch.ones(4), torch.full((4,), 36.0))
    return save(folder, updater, Progress(3, 42, 5, 1.0), keep=1), updater


def test_weights_and_statistics_are_taken_over_by_name(tmp_path: Path) -> None:
    checkpoint, source = saved(tmp_path / "checkpoints", normalize_observations=True)
    model = AgentModel(make_spec(normalize_observations=True))
    line = warm_start(model, str(checkpoint), partial=False)
    arrays, stored = saved_tensors(model), saved_tensors(source.context.model)
    assert all(torch.equal(arrays[name], stored[name]) for name in stored)
    assert model.normaliser is not None
    assert model.normaliser.offset.tolist() == pytest.approx([-0.5] * 4)  # mean 1, variance 36 / 9: (x - 1) / 2
    assert line == f"{len(stored)} of {len(stored)} arrays of the network start as in {checkpoint} (42 env steps)"


def test_a_run_folder_means_its_newest_checkpoint(tmp_path: Path) -> None:
    checkpoint, _ = saved(tmp_path / "checkpoints")
    (tmp_path / "config.yaml").touch()
    assert str(checkpoint) in warm_start(AgentModel(make_spec()), str(tmp_path), partial=False)


def test_what_does_not_fit_is_named_and_refused_unless_asked_for(tmp_path: Path) -> None:
    # The other environment has 5 actions: heads and action embeddings differ, encoder and value head do not.
    checkpoint, source = saved(tmp_path / "checkpoints", sizes=(5,))
    model = AgentModel(make_spec(sizes=(3,)))
    before = {name: value.clone() for name, value in saved_tensors(model).items()}
    with pytest.raises(UserError, match=r"does not fit: .*expected \[3, 8\], got \[5, 8\].*trainer.init_partial=true"):
        warm_start(model, str(checkpoint), partial=False)
    assert all(torch.equal(value, before[name]) for name, value in saved_tensors(model).items()), "a refusal changes nothing"
    line = warm_start(model, str(checkpoint), partial=True)
    arrays, stored = saved_tensors(model), saved_tensors(source.context.model)
    for name, value in arrays.items():
        expected = stored[name] if stored[name].shape == value.shape else before[name]
        assert torch.equal(value, expected), name
    assert "policy.bias (expected [3], got [5])" in line
    assert "\n" not in line


def test_statistics_without_a_normaliser_are_named_too(tmp_path: Path) -> None:
    checkpoint, _ = saved(tmp_path / "checkpoints", normalize_observations=True)
    with pytest.raises(UserError, match=r"normaliser.count \(expected nothing, got \[\]\)"):
        warm_start(AgentModel(make_spec()), str(checkpoint), partial=False)


def test_a_network_with_nothing_in_common_is_refused_in_any_case(tmp_path: Path) -> None:
    checkpoint, _ = saved(tmp_path / "checkpoints", hidden_sizes=(9,), sizes=(5,), model_hidden=7, value_head="categorical")
    with pytest.raises(UserError, match="no parameter of this network matches one of that checkpoint"):
        warm_start(AgentModel(make_spec()), str(checkpoint), partial=True)


@pytest.mark.parametrize(("folder", "expected"), [("nowhere", "expected a folder,"), ("", "a folder with manifest.json")])
def test_a_missing_source_is_one_line_with_the_name_of_the_setting(tmp_path: Path, folder: str, expected: str) -> None:
    with pytest.raises(UserError, match=f"^trainer.init_from: {tmp_path / folder} is not a checkpoint: .*{expected}"):
        warm_start(AgentModel(make_spec()), str(tmp_path / folder), partial=False)


def test_the_updater_starts_from_the_source_and_so_does_the_prior(tmp_path: Path) -> None:
    from learner.setup import LearnerConfig, make_updater
    from oatmill.settings.base import MetricsSettings
    from tests.learner.worlds import ONE

    checkpoint, source = saved(tmp_path / "checkpoints")
    trainer, spec = make_trainer("baseline", {"init_from": str(checkpoint)}), make_spec()

    def weights(*, resume: bool) -> tuple[torch.Tensor, torch.Tensor]:
        config = LearnerConfig(trainer, spec.settings, MetricsSettings(), {}, "", Path(), resume=resume)
        context = make_updater(config, spec, ONE).context
        return next(context.model.encoder.parameters()), next(context.prior.encoder.parameters())

    wanted = next(source.context.model.encoder.parameters())
    assert all(torch.equal(array, wanted) for array in weights(resume=False))
    assert not torch.equal(weights(resume=True)[0], wanted), "a resumed run has a checkpoint of its own"


@pytest.mark.parametrize("parts", [("encoder",), ("policy",), ("encoder", "core", "value"), ("dynamics",)])
def test_frozen_parts_keep_their_values_and_the_others_are_trained(parts: tuple[str, ...]) -> None:
    spec = make_spec(core="gru")
    updater = make_updater_of(make_trainer("full", {"freeze_parts": parts}), spec)
    before = {name: value.clone() for name, value in saved_tensors(updater.context.model).items()}
    record = learn(updater, make_batch(spec))
    moved = {name for name, value in saved_tensors(updater.context.model).items() if not torch.equal(value, before[name])}
    starts = {"dynamics": ("transition.", "model_")}
    frozen = tuple(start for part in parts for start in starts.get(part, (f"{part}.",)))
    assert moved
    assert not any(name.startswith(frozen) for name in moved)
    assert {name for name in before if not name.startswith(frozen)} == moved
    assert record.gradients is not None
    assert bool(record.gradients.isfinite().all()), "losses are compared on what is trained"


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (("core",), "names core, which this network does not have; it has encoder, policy, value, dynamics"),
        (("normaliser",), "names normaliser"),
        (("encoder", "policy", "value", "dynamics"), "leaves no parameter that a loss trains"),
    ],
)
def test_parts_that_cannot_be_frozen_are_named(parts: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        freeze(AgentModel(make_spec()), parts)
