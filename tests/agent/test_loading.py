"""A trained policy from Python: `agent.load(checkpoint).act(observations)`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import agent
from agent.checkpoint_manifest import MANIFEST, MODEL_FILE, with_digest
from agent.loading import LoadedAgent, first_row
from agent.model import AgentModel
from learner.checkpoints.files import save
from learner.progress import Progress
from oatmill.errors import UserError
from tests.learner.test_action_masks import masked_spec
from tests.learner.worlds import OBSERVATION, make_spec, make_trainer, make_updater_of


def checkpoint(folder: Path, **spec_settings: Any) -> tuple[Path, AgentModel]:
    updater = make_updater_of(make_trainer("baseline"), make_spec(**spec_settings))
    saved = save(folder, updater, Progress(learner_step=3, env_steps=99, policy_version=7), keep=1)
    return saved, updater.context.model


def masked_checkpoint(folder: Path) -> Path:
    updater = make_updater_of(make_trainer("baseline"), masked_spec((3,)))
    return save(folder, updater, Progress(learner_step=3, env_steps=99, policy_version=7), keep=1)


def observations(rows: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=(rows, OBSERVATION)).astype(np.float32)


def test_the_package_shows_what_a_user_needs_and_nothing_else() -> None:
    assert sorted(agent.__all__) == ["LoadedAgent", "load"]
    assert agent.load.__module__ == "agent.loading"
    with pytest.raises(AttributeError, match="has no attribute 'train'"):
        _ = agent.train


def test_a_deterministic_agent_takes_the_likeliest_action(tmp_path: Path) -> None:
    folder, model = checkpoint(tmp_path)
    loaded = agent.load(folder)
    seen = observations(50)
    actions = loaded.act(seen, deterministic=True)
    expected = model.act(torch.from_numpy(seen), model.initial_state(50)).logits.argmax(-1).numpy()
    assert actions.dtype == np.int64
    np.testing.assert_array_equal(actions, expected)
    assert len(set(actions.tolist())) > 1
    assert loaded.manifest["learner_step"] == 3


def test_a_list_and_one_observation_are_taken_as_well_as_a_batch(tmp_path: Path) -> None:
    loaded = agent.load(checkpoint(tmp_path)[0])
    seen = observations(20)
    expected = loaded.act(seen, deterministic=True)
    np.testing.assert_array_equal(loaded.act(seen.tolist(), deterministic=True), expected)
    np.testing.assert_array_equal(loaded.act(seen.astype(np.float64), deterministic=True), expected)
    for one, action in zip(seen, expected, strict=True):
        for form in (one, one.tolist()):
            taken = loaded.act(form, deterministic=True)
            assert taken == action
            assert np.ndim(taken) == 0


def test_observations_of_another_kind_are_refused(tmp_path: Path) -> None:
    loaded = agent.load(checkpoint(tmp_path)[0])
    with pytest.raises(ValueError, match="expected observations of dtype float32, got complex64"):
        loaded.act(observations(2) + 1j)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_observations_that_are_not_finite_are_refused(number: float, tmp_path: Path) -> None:
    seen = observations(2)
    seen[1, 0] = number
    with pytest.raises(ValueError, match="expected observations of finite numbers, got NaN or an infinity"):
        agent.load(checkpoint(tmp_path)[0]).act(seen)


def test_one_action_of_several_parts_keeps_its_form() -> None:
    actions = {"move": np.array([3, 1]), "aim": (np.array([[0.5, 1.0], [0.0, 0.0]]), np.array([7, 8]))}
    first = first_row(actions)
    assert first["move"] == 3
    assert first["aim"][1] == 7
    np.testing.assert_array_equal(first["aim"][0], [0.5, 1.0])


def test_a_sampling_agent_follows_the_policy_and_its_seed(tmp_path: Path) -> None:
    folder, model = checkpoint(tmp_path)
    seen = np.repeat(observations(1), 20_000, 0)
    drawn = agent.load(folder, seed=5).act(seen)
    policy = model.act(torch.from_numpy(seen[:1]), model.initial_state(1)).logits.softmax(-1)[0].numpy()
    np.testing.assert_allclose(np.bincount(drawn, minlength=3) / 20_000, policy, atol=0.0142)  # four standard errors
    np.testing.assert_array_equal(agent.load(folder, seed=5).act(seen), drawn)
    assert not np.array_equal(agent.load(folder, seed=6).act(seen), drawn)


def test_a_factored_agent_chooses_in_each_factor(tmp_path: Path) -> None:
    folder, _ = checkpoint(tmp_path, sizes=(2, 5), factored=True)
    loaded = agent.load(folder)
    for deterministic in (False, True):
        actions = loaded.act(observations(200), deterministic=deterministic)
        assert actions.shape == (200, 2)
        assert actions.min() >= 0
        assert (actions.max(0) < [2, 5]).all()


@pytest.mark.parametrize("core", ["lstm", "gru"])
def test_a_recurrent_agent_keeps_its_state_until_it_is_reset(tmp_path: Path, core: str) -> None:
    folder, _ = checkpoint(tmp_path, core=core)
    steps = [observations(4, seed) for seed in range(3)]

    def states_after(reset_before: dict[int, Any]) -> torch.Tensor:
        loaded = agent.load(folder)
        for number, seen in enumerate(steps):
            if number in reset_before:
                loaded.reset(reset_before[number])
            loaded.act(seen, deterministic=True)
        return loaded._state.clone()

    carried, from_last = states_after({}), states_after({2: None})
    assert not torch.allclose(carried, from_last)
    fresh = agent.load(folder)
    fresh.act(steps[2], deterministic=True)
    assert torch.equal(from_last, fresh._state)
    for rows in (np.array([1, 3]), [1, 3], np.array([False, True, False, True])):
        some = states_after({2: rows})
        torch.testing.assert_close(some[[0, 2]], carried[[0, 2]])
        torch.testing.assert_close(some[[1, 3]], from_last[[1, 3]])


def test_a_reset_before_the_first_observation_does_nothing(tmp_path: Path) -> None:
    loaded = agent.load(checkpoint(tmp_path, core="gru")[0])
    loaded.reset(np.array([0]))
    loaded.reset()
    assert loaded.act(observations(2)).shape == (2,)


def test_another_number_of_rows_resets_the_state(tmp_path: Path) -> None:
    loaded = agent.load(checkpoint(tmp_path, core="gru")[0])
    for rows in (3, 5, 1):
        assert loaded.act(observations(rows)).shape == (rows,)


@pytest.mark.parametrize("shape", [(5,), (2, 5), (2, 4, 1)])
def test_observations_of_another_shape_raise_an_error_with_the_expected_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    loaded = agent.load(checkpoint(tmp_path)[0])
    with pytest.raises(ValueError, match=r"expected observations of shape \[N, 4\], got"):
        loaded.act(np.zeros(shape, np.float32))


def test_observations_need_not_be_writable_or_contiguous(tmp_path: Path) -> None:
    loaded = agent.load(checkpoint(tmp_path)[0])
    seen = observations(6)
    expected = loaded.act(seen, deterministic=True)
    seen.flags.writeable = False
    np.testing.assert_array_equal(loaded.act(seen, deterministic=True), expected)
    np.testing.assert_array_equal(loaded.act(np.asfortranarray(seen), deterministic=True), expected)


def test_a_folder_without_a_checkpoint_raises_an_error_with_an_example(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a checkpoint: expected a folder with manifest\.json"):
        agent.load(tmp_path)


def test_a_damaged_or_foreign_checkpoint_raises_an_error(tmp_path: Path) -> None:
    folder, _ = checkpoint(tmp_path)
    manifest = json.loads((folder / MANIFEST).read_text())
    other = manifest | {"agent": make_spec(hidden_sizes=(9,)).to_dict()}
    (folder / MANIFEST).write_text(json.dumps(with_digest(other)))
    with pytest.raises(UserError, match=r"to another network: expected \(9,\) for encoder\.layers\.0\.bias, got \(8,\)"):
        agent.load(folder)
    with_core, _ = checkpoint(tmp_path / "with core", core="gru")
    recurrent = json.loads((with_core / MANIFEST).read_text())
    (with_core / MANIFEST).write_text(json.dumps(with_digest(recurrent | {"agent": make_spec().to_dict()})))
    with pytest.raises(UserError, match=r"to another network: expected nothing for core\.cell\.bias_hh, got \(18,\)"):
        agent.load(with_core)
    (folder / MODEL_FILE).write_bytes(b"x" + (folder / MODEL_FILE).read_bytes()[1:])
    with pytest.raises(UserError, match=r"model\.safetensors is damaged or missing"):
        agent.load(str(folder))


def test_a_loaded_agent_is_made_for_inference(tmp_path: Path) -> None:
    loaded = agent.load(checkpoint(tmp_path)[0])
    assert isinstance(loaded, LoadedAgent)
    assert not loaded.model.training
    assert loaded.spec == make_spec()


def test_an_agent_acts_in_the_environments_units_and_structure(tmp_path: Path) -> None:
    # make_action lays a Tuple of choices and numbers in -1..1; here the numbers' units are -2..2 and 0..10.
    folder, model = checkpoint(tmp_path, sizes=(3,), numbers=2)
    action = replace(model.spec.spaces.action, low=(-2.0, 0.0), high=(2.0, 10.0))
    model.spec = replace(model.spec, spaces=replace(model.spec.spaces, action=action))
    loaded = LoadedAgent(model, {})
    seen = observations(40)
    choices, numbers = loaded.act(seen, deterministic=True)
    rows = model.act(torch.from_numpy(seen), model.initial_state(40)).logits.numpy()
    assert (choices.shape, choices.dtype, numbers.shape, numbers.dtype) == ((40, 1), np.int64, (40, 2), np.float32)
    np.testing.assert_array_equal(choices[:, 0], rows[:, :3].argmax(-1))
    means = rows[:, 3:5].clip(-1, 1)
    np.testing.assert_allclose(numbers, np.stack([2 * means[:, 0], 5 + 5 * means[:, 1]], -1), rtol=1e-5, atol=1e-5)
    drawn = loaded.act(seen)[1]
    assert (drawn >= [-2, 0]).all()
    assert (drawn <= [2, 10]).all()
    assert not np.allclose(drawn, numbers)
    assert agent.load(folder).act_in_rows(seen, deterministic=True).shape == (40, 3)


def test_a_loaded_agent_takes_the_mask_as_the_environment_gives_it(tmp_path: Path) -> None:
    loaded = agent.load(masked_checkpoint(tmp_path))
    seen = observations(200)
    mask = np.tile(np.array([0, 1, 1], np.int8), (200, 1))  # as Gymnasium's in info
    assert set(loaded.act(seen, action_mask=mask).tolist()) == {1, 2}
    keys = {"observation": seen, "action_mask": mask}  # as PettingZoo's
    assert (loaded.act(keys, deterministic=True) == loaded.act(seen, action_mask=mask, deterministic=True)).all()
    mask[:, 1] = 0
    assert (loaded.act(seen, action_mask=mask) == 2).all()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (observations(2), "expected observations with the keys action_mask, observation, got ndarray"),
        ({"observation": observations(2)}, "expected observations with the keys action_mask, observation, got observation"),
        ({"observation": observations(2), "action_mask": np.ones((2, 4))}, r"observations of action_mask of shape \[N, 3\]"),
        (
            {"observation": observations(2), "action_mask": np.full((2, 3), 2)},
            "of action_mask of 0 and 1",
        ),
        ({"observation": observations(2), "action_mask": np.ones((3, 3))}, "as many rows of each key"),
    ],
)
def test_what_is_not_the_dict_that_the_network_was_trained_on_is_refused(tmp_path: Path, given: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        agent.load(masked_checkpoint(tmp_path)).act(given)


def test_a_mask_for_a_network_that_knows_none_is_refused(tmp_path: Path) -> None:
    folder, _ = checkpoint(tmp_path)
    with pytest.raises(ValueError, match="expected no action_mask, because this network was trained without one"):
        agent.load(folder).act(observations(2), action_mask=np.ones((2, 3)))
