"""What an absent agent's row holds may be anything: nothing of it reaches a loss, a gradient or a parameter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from learner.loss import Term, method_reads
from learner.update.inputs import to_inputs
from learner.update.updater import Updater
from protocol.data.batch import Batch
from tests.learner.worlds import (
    CPU,
    PLANS,
    assert_same_arrays,
    inputs_of,
    learn,
    make_batch,
    make_spec,
    make_trainer,
    make_updater_of,
    parameters_of,
)

NAN = float("nan")
WORLDS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {arm: (arm, {}, {}) for arm in PLANS} | {
    "lstm": ("full", {}, {"core": "lstm"}),
    "factored": ("full", {}, {"sizes": (2, 3), "factored": True}),
    "sampled": ("full", {"losses.cmpo.estimator": "sampled"}, {}),
    "retrace": ("full", {"returns": "retrace"}, {"value_head": "categorical"}),
    "proximal": ("full", {"losses.ppo_actor.anchor": "proximal", "losses.ppo_actor.norm_adv": False}, {}),
    "clipped": ("baseline", {"losses.ppo_critic.clip_vloss": True}, {}),
}


def poisoned(batch: Batch, poison: float) -> Batch:
    """The batch with poison in everything that belongs to absent steps, and actions that do not exist."""
    absent = ~batch.valid
    assert absent.any()
    assert absent[:, -1].any(), "the observation after the last step is part of it"
    changed: dict[str, Any] = {}
    for name in ("rewards", "behaviour_logits", "behaviour_value", "observations"):
        array = getattr(batch, name).copy()
        array[:, : absent.shape[1]][absent] = poison
        changed[name] = array
    changed["observations"][absent[:, -1], -1] = poison
    changed["actions"] = batch.actions.copy()
    changed["actions"][absent] = 999
    changed["core_state"] = batch.core_state.copy()
    changed["core_state"][absent[:, 0]] = poison
    return replace(batch, **changed)


def with_late_comers(batch: Batch) -> Batch:
    """The same, where two rows' agents are absent at first and one leaves before the end."""
    valid, terminated = batch.valid.copy(), batch.terminated.copy()
    valid[[0, 3], :2] = False
    valid[1, -2:] = False
    terminated[1, -3] = True
    terminated |= ~valid
    truncated = batch.truncated & valid & ~terminated
    kept = truncated[batch.final_trajectory, batch.final_step]
    return replace(
        batch,
        valid=valid,
        terminated=terminated,
        truncated=truncated,
        final_observations=batch.final_observations[kept],
        final_trajectory=batch.final_trajectory[kept],
        final_step=batch.final_step[kept],
    )


@pytest.mark.parametrize("poison", [NAN, 1e9, float("inf")])
@pytest.mark.parametrize("world", WORLDS)
def test_poison_in_absent_steps_changes_no_loss_and_no_parameter(world: str, poison: float) -> None:
    arm, changes, settings = WORLDS[world]
    spec = make_spec(**settings)
    batch = with_late_comers(make_batch(spec, absent=True))
    runs = []
    for trajectories in (poisoned(batch, 0.0), poisoned(batch, poison)):
        updater = make_updater_of(make_trainer(arm, changes), spec)
        record = learn(updater, trajectories)
        assert record.skipped == 0
        runs.append((record, parameters_of(updater)))
    (clean, parameters), (other, other_parameters) = runs
    assert torch.equal(torch.stack(clean.sums), torch.stack(other.sums))
    assert clean.batch_sums is not None
    assert other.batch_sums is not None
    assert torch.equal(clean.batch_sums, other.batch_sums)
    assert_same_arrays(parameters, other_parameters)


def of_another_episode(inputs: dict[str, torch.Tensor], first: int, poison: float) -> dict[str, torch.Tensor]:
    """The same batch, in which an episode ends at step `first - 1` of every row and what follows is another one's."""
    changed = {name: value.clone() for name, value in inputs.items()}
    for name in ("observations_BT1", "rewards_BT", "behaviour_log_probs_BTA"):
        changed[name][:, first:] = poison * torch.arange(1, changed[name][:, first:].numel() + 1).view_as(
            changed[name][:, first:]
        )
    changed["behaviour_log_probs_BTA"] = changed["behaviour_log_probs_BTA"].clamp(-10, 0)
    changed["actions_BT"][:, first:] = 1 - changed["actions_BT"][:, first:].clamp(max=1)
    return changed


def before(step: int, updater: Updater, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Values and masks of every loss's terms and statistics at the steps before one, and the gradient of their sum."""
    values = updater.objective.prepare(inputs)
    ends = values["terminated_BT"] | values["truncated_BT"]
    observations, core_state = values["observations_BT1"][:, :-1], values["core_state_BS"]
    outputs = updater.wrapped(observations, core_state, ends, values["actions_BT"], updater.plan.needs)
    everything = {**values, **outputs}
    found, total = [], torch.zeros(())
    for loss in updater.objective.losses:
        terms = loss.compute(**{name: everything[name] for name in method_reads(type(loss), "compute")})
        for entry in terms.values():
            mask, value = entry.mask[:, :step], entry.value[:, :step]
            found += [mask, torch.where(mask, value, 0.0).detach()]
            total = total + torch.where(mask, value, 0.0).sum() * isinstance(entry, Term)
    return [*found, *torch.autograd.grad(total, updater.parameters)]


@pytest.mark.parametrize("kind", ["terminated_BT", "truncated_BT"])
@pytest.mark.parametrize("world", WORLDS)
def test_an_episode_learns_nothing_of_the_one_after_it(world: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Every row's episode ends at step 3, and the next one is trained on too, but differs: up to the end every value, every mask
    # and the gradient stay the same. Advantages and sigma would be scaled by the whole batch, so they are not, here.
    arm, changes, settings = WORLDS[world]
    spec = make_spec(**settings)
    batch = make_batch(spec)
    none = np.zeros_like(batch.truncated)
    seen = np.random.default_rng(5).normal(size=(6, 4)).astype(np.float32)
    cut = slice(0 if kind == "terminated_BT" else 6)
    batch = replace(
        batch,
        terminated=none,
        truncated=none.copy(),
        final_observations=seen[cut],
        final_trajectory=np.arange(6, dtype=np.int32)[cut],
        final_step=np.full(6, 3, np.int32)[cut],
    )
    found = []
    for poison in (0.01, 1e9, -1e3):
        updater = make_updater_of(make_trainer(arm, {"losses.ppo_actor.norm_adv": False} | changes), spec)
        monkeypatch.setattr(updater.context.advantage_scale, "update", lambda _error, _mask: torch.tensor(1.3))
        inputs = of_another_episode(inputs_of(updater, batch), 4, poison)
        inputs[kind][:, 3] = True
        found.append(before(4, updater, inputs))
    for other in found[1:]:
        for clean, poisoned_too in zip(found[0], other, strict=True):
            assert torch.isfinite(clean).all()
            torch.testing.assert_close(poisoned_too, clean, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("world", ["full", "lstm"])
def test_the_observation_after_a_terminations_last_step_is_not_read(world: str) -> None:
    # Every row's agent is there throughout and terminates at the last step: what comes next is another episode's, or nothing.
    spec = make_spec(**WORLDS[world][2])
    batch = make_batch(spec)
    terminated = batch.terminated.copy()
    terminated[:, -1] = True
    truncated = batch.truncated & ~terminated
    kept = truncated[batch.final_trajectory, batch.final_step]
    batch = replace(
        batch,
        terminated=terminated,
        truncated=truncated,
        final_observations=batch.final_observations[kept],
        final_trajectory=batch.final_trajectory[kept],
        final_step=batch.final_step[kept],
    )
    sums = []
    for poison in (0.0, NAN, 1e9):
        observations = batch.observations.copy()
        observations[:, -1] = poison
        record = learn(make_updater_of(make_trainer("full"), spec), replace(batch, observations=observations))
        assert record.skipped == 0
        sums.append(torch.stack(record.sums))
    assert torch.equal(sums[0], sums[1])
    assert torch.equal(sums[0], sums[2])


def test_the_actors_own_value_is_never_trained_on() -> None:
    spec = make_spec()
    batch = make_batch(spec)
    runs = []
    for value in (0.0, NAN):
        updater = make_updater_of(make_trainer(), spec)
        learn(updater, replace(batch, behaviour_value=np.full_like(batch.behaviour_value, value)))
        runs.append(parameters_of(updater))
    assert_same_arrays(*runs)


def test_without_absent_steps_arrays_are_wrapped_and_not_copied() -> None:
    spec = make_spec()
    batch = make_batch(spec)
    inputs = to_inputs(batch, spec, make_trainer(), CPU)
    for name, array in (("observations_BT1", batch.observations), ("actions_BT", batch.actions), ("mask_BT", batch.valid)):
        assert np.shares_memory(inputs[name].numpy(), array), name  # type: ignore[literal-required]


def test_what_belongs_to_absent_steps_is_cleared_and_nothing_else() -> None:
    # Row 0 is absent at the first step, row 1 at the last, row 2 in between; the batch itself stays as it is.
    spec = make_spec(core="gru")
    batch = make_batch(spec)
    for row, step in ((0, 0), (1, 6), (2, 3)):
        batch.valid[row, step] = False
    names = {
        "observations": "observations_BT1",
        "actions": "actions_BT",
        "rewards": "rewards_BT",
        "core_state": "core_state_BS",
    }
    before = {name: getattr(batch, name).copy() for name in names}
    inputs = to_inputs(batch, spec, make_trainer(), CPU)
    expected = {name: array.copy() for name, array in before.items()}
    for row, step in ((0, 0), (1, 6), (2, 3)):
        for name in ("observations", "actions", "rewards"):
            expected[name][row, step] = 0
    expected["observations"][1, 7] = 0
    expected["core_state"][0] = 0
    for name, written in names.items():
        np.testing.assert_array_equal(getattr(batch, name), before[name])
        np.testing.assert_array_equal(inputs[written].numpy(), expected[name], err_msg=name)  # type: ignore[literal-required]
    uniform = inputs["behaviour_log_probs_BTA"][[0, 1, 2], [0, 6, 3]].exp()
    torch.testing.assert_close(uniform, torch.full((3, 3), 1 / 3))


def test_bytes_of_absent_steps_stay_as_they_are() -> None:
    # A token row of zeros would no longer be a pad.
    spec = make_spec()
    batch = with_late_comers(make_batch(spec, absent=True))
    batch = replace(batch, observations=np.full((6, 8, 5, 3), 255, np.uint8))
    assert (to_inputs(batch, spec, make_trainer(), CPU)["observations_BT1"] == 255).all()


def test_rewards_are_scaled_and_then_cut() -> None:
    spec = make_spec()
    batch = replace(make_batch(spec), rewards=np.tile(np.array([[-9, -1, 0, 1, 2, 3, 50]], np.float32), (6, 1)))
    trainer = make_trainer("baseline", {"reward_scale": 0.5, "reward_clip": 1.25})
    assert to_inputs(batch, spec, trainer, CPU)["rewards_BT"][0].tolist() == [-1.25, -0.5, 0, 0.5, 1, 1.25, 1.25]
    assert to_inputs(batch, spec, make_trainer(), CPU)["rewards_BT"][0].tolist() == [-9, -1, 0, 1, 2, 3, 50]


def test_behaviour_logits_become_log_probabilities_factor_by_factor() -> None:
    spec = make_spec(sizes=(2, 3), factored=True)
    inputs = to_inputs(make_batch(spec), spec, make_trainer(), CPU)
    policy = inputs["behaviour_log_probs_BTA"].exp()
    torch.testing.assert_close(policy[..., :2].sum(-1), torch.ones(6, 7))
    torch.testing.assert_close(policy[..., 2:].sum(-1), torch.ones(6, 7))


def test_burn_in_is_masked_without_touching_the_batch() -> None:
    spec = make_spec(core="gru", burn_in=2)
    batch = make_batch(spec)
    mask = to_inputs(batch, spec, make_trainer(), CPU)["mask_BT"]
    assert not mask[:, :2].any()
    assert mask[:, 2:].all()
    assert batch.valid.all()
