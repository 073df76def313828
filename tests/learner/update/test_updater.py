"""The learner step: what is trained, what a bad update leaves alone, the prior that follows, and the same numbers each time."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from agent.model import ModelOutputs, acting_arrays, acting_layout
from learner.pack_weights import pack
from learner.update.objective import SMALL_BYTES, Objective
from learner.update.updater import Record, Updater
from protocol.data.batch import Batch
from tests.learner.worlds import (
    ARMS,
    PLANS,
    assert_same_arrays,
    inputs_of,
    learn,
    make_batch,
    make_spec,
    make_trainer,
    make_updater_of,
    parameters_of,
    rows_of,
    shake,
    weigh,
)

HEADS_OF_ARM = {
    "baseline": {"policy", "value"},
    "muesli": {"policy", "value", "transition", "model_policy"},
    "muesli_cmpo": {"policy", "value", "transition", "model_policy"},
    "full": {"policy", "value", "transition", "model_policy", "model_reward", "model_value"},
}
HEADS_OF_ARM["paper"] = HEADS_OF_ARM["full"]
"""What each arm's losses reach beside the encoder and the core."""


def moved(before: dict[str, Any], after: dict[str, Any], network: str) -> set[str]:
    return {name.split(".")[1] for name in before if name.startswith(network) and not np.array_equal(before[name], after[name])}


@pytest.mark.parametrize("network", ["trained", "prior"])
def test_actors_get_the_weights_of_the_network_that_they_are_to_act_with(network: str) -> None:
    spec = make_spec()
    updater = make_updater_of(make_trainer("full", {"acting_network": network}), spec)
    learn(updater, make_batch(spec))
    context = updater.context
    sent = pack(updater.acting_network, 1, "float32").unpack(acting_layout(context.model))
    of = {"trained": context.model, "prior": context.prior}
    assert_same_arrays(sent, acting_arrays(of.pop(network)))
    (other,) = of.values()
    assert any(not np.array_equal(sent[name], array) for name, array in acting_arrays(other).items())


@pytest.mark.parametrize("core", ["none", "gru"])
@pytest.mark.parametrize("arm", PLANS)
def test_exactly_the_parameters_that_get_gradients_are_trained(arm: str, core: str) -> None:
    spec = make_spec(core=core)
    updater = make_updater_of(make_trainer(arm), spec)
    trained = {name for name, parameter in updater.context.model.named_parameters() if parameter.requires_grad}
    for parameter in updater.context.model.parameters():
        parameter.requires_grad_()
    weighed = weigh(updater, updater.objective.prepare(inputs_of(updater, make_batch(spec))))
    torch.autograd.backward(weighed.total)
    reached = {name for name, parameter in updater.context.model.named_parameters() if parameter.grad is not None}
    assert trained == reached
    trunk = {"encoder"} if core == "none" else {"encoder", "core"}
    assert {name.split(".")[0] for name in trained} == HEADS_OF_ARM[arm] | trunk
    assert len(updater.parameters) == len(trained)


@pytest.mark.parametrize("arm", PLANS)
def test_a_learner_step_moves_what_is_trained_and_the_prior_follows(arm: str) -> None:
    spec = make_spec()
    updater = make_updater_of(make_trainer(arm), spec)
    before = parameters_of(updater)
    record = learn(updater, make_batch(spec))
    after = parameters_of(updater)
    assert moved(before, after, "model.") == HEADS_OF_ARM[arm] | {"encoder"}
    assert moved(before, after, "prior.") == (set() if arm == "baseline" else HEADS_OF_ARM[arm] | {"encoder"})
    assert (updater.updates, len(record.sums), len(record.norms), record.skipped) == (4, 4, 4, 0)


def test_the_prior_moves_by_its_rate_once_an_update() -> None:
    # One update: prior' = prior + a (new - prior).
    spec = make_spec()
    changes = {"epochs": 1, "minibatches": 1, "losses.cmpo.prior_ema_rate": 0.3}
    updater = make_updater_of(make_trainer("full", changes), spec)
    before = parameters_of(updater)
    learn(updater, make_batch(spec))
    after = parameters_of(updater)
    for name in (name for name in before if name.startswith("prior.")):
        expected = 0.7 * before[name] + 0.3 * after[name.replace("prior.", "model.")]
        np.testing.assert_allclose(after[name], expected, atol=1e-6)


def test_what_was_prepared_is_the_same_in_every_update(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make_spec()
    updater = make_updater_of(make_trainer(), spec)
    inputs = inputs_of(updater, make_batch(spec))
    values = updater.objective.prepare(inputs)
    copies = {name: value.clone() for name, value in values.items()}
    with monkeypatch.context() as patch:
        patch.setattr(updater.objective, "prepare", lambda _inputs: values)
        updater.learn(inputs, learning_rate=0.1, report=True)
    for name, copy in copies.items():
        assert torch.equal(values[name], copy), f"{name} was changed in place"
    assert not torch.equal(updater.objective.prepare(inputs)["old_log_probs_BTA"], copies["old_log_probs_BTA"])


ANCHORED = {"behaviour_log_prob_BT", "old_log_prob_BT", "anchor_weight_BT"}
"""What the policy's ratios are taken against: the same in all updates of a batch."""


@pytest.mark.parametrize("anchor", ["behaviour", "proximal"])
def test_prepared_again_every_epoch_targets_are_those_of_the_newest_weights_and_anchors_stay(
    anchor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"losses.ppo_actor.anchor": anchor, "epochs": 3, "minibatches": 2, "prepare_every": "epoch"}
    spec = make_spec()
    updater = make_updater_of(make_trainer("baseline", changes), spec)
    batch = make_batch(spec)
    fresh, seen = [], []
    prepare = Objective.prepare

    def spy(self: Objective, inputs: Any, *, start: Any = None) -> Any:
        fresh.append(prepare(self, inputs))  # with the weights of now and no anchors
        seen.append(prepare(self, inputs, start=start))
        return seen[-1]

    monkeypatch.setattr(Objective, "prepare", spy)
    learn(updater, batch)
    assert len(seen) == 3
    for name in ("critic_target_BT", "policy_advantage_BT", "importance_ratio_BT"):
        assert all(torch.equal(values[name], now[name]) for values, now in zip(seen, fresh, strict=True))
        assert not torch.equal(seen[0][name], seen[1][name]), name
        assert not torch.equal(seen[1][name], seen[2][name]), name
    for name in ANCHORED & seen[0].keys():
        assert all(torch.equal(values[name], seen[0][name]) for values in seen), name
    if anchor == "proximal":
        assert not torch.equal(fresh[1]["anchor_weight_BT"], seen[1]["anchor_weight_BT"])


@pytest.mark.parametrize(
    ("prepare_every", "expected"),
    [("batch", "P......"), ("epoch", "P..P..P.."), (1, "P.P.P.P.P.P."), (4, "P....P.."), (6, "P......"), (100, "P......")],
)
def test_targets_are_prepared_again_after_so_many_updates(
    prepare_every: object, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"epochs": 3, "minibatches": 2, "prepare_every": prepare_every}
    spec = make_spec()
    updater = make_updater_of(make_trainer("baseline", changes), spec)
    events = ""
    prepare, update = Objective.prepare, updater.update

    def spy_prepare(self: Objective, inputs: Any, **start: Any) -> Any:
        nonlocal events
        events += "P"
        return prepare(self, inputs, **start)

    def spy_update(*given: Any, **named: Any) -> None:
        nonlocal events
        events += "."
        update(*given, **named)

    monkeypatch.setattr(Objective, "prepare", spy_prepare)
    monkeypatch.setattr(updater, "update", spy_update)
    learn(updater, make_batch(spec))
    assert events == expected


@pytest.mark.parametrize("small_bytes", [SMALL_BYTES, 0])
@pytest.mark.parametrize("prepare_every", ["batch", 2])
def test_every_trajectory_is_used_once_an_epoch(
    small_bytes: int, prepare_every: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("learner.update.objective.SMALL_BYTES", small_bytes)
    spec = make_spec()
    updater = make_updater_of(make_trainer("baseline", {"epochs": 3, "minibatches": 3, "prepare_every": prepare_every}), spec)
    batch = make_batch(spec)
    first = [float(row) for row in batch.observations[:, 0, 0]]  # tells the trajectories apart
    used: list[list[int]] = []
    update = updater.update

    def spy(minibatch: Any, *given: Any, **named: Any) -> None:
        used.append([first.index(float(row)) for row in minibatch["observations_BT"][:, 0, 0]])
        update(minibatch, *given, **named)

    monkeypatch.setattr(updater, "update", spy)
    learn(updater, batch)
    assert len(used) == 9
    for epoch in range(3):
        assert sorted(chain(*used[3 * epoch : 3 * epoch + 3])) == list(range(6))
    assert used[:3] != used[3:6] != used[6:], "each epoch is shuffled anew"


def with_bad_reward(batch: Batch) -> Batch:
    rewards = batch.rewards.copy()
    rewards[2, 3] = np.nan
    return replace(batch, rewards=rewards)


@pytest.mark.parametrize("arm", ARMS)
def test_a_non_finite_update_leaves_parameters_prior_optimiser_and_sigma_alone(arm: str) -> None:
    spec = make_spec()
    updater = make_updater_of(make_trainer(arm), spec)
    learn(updater, make_batch(spec))
    before, sigma = parameters_of(updater), updater.context.advantage_scale.state()
    record = learn(updater, with_bad_reward(make_batch(spec, seed=1)))
    # Normalised advantages spread the NaN over the whole batch.
    assert record.skipped == 4
    assert_same_arrays(before, parameters_of(updater))
    assert updater.context.advantage_scale.state() == sigma
    assert learn(updater, make_batch(spec, seed=2)).skipped == 0


def test_only_the_minibatches_with_a_bad_step_are_skipped() -> None:
    spec = make_spec()
    updater = make_updater_of(make_trainer("baseline", {"losses.ppo_actor.norm_adv": False}), spec)
    before = parameters_of(updater)
    record = learn(updater, with_bad_reward(make_batch(spec)))
    assert (record.skipped, len(record.norms)) == (2, 4)
    assert [bool(torch.isfinite(norm)) for norm in record.norms].count(False) == 2
    after = parameters_of(updater)
    assert moved(before, after, "model.") == {"encoder", "policy", "value"}
    assert all(np.isfinite(array).all() for array in after.values())


def test_the_gradient_is_clipped_to_its_largest_norm_and_reported_before_that() -> None:
    spec = make_spec()
    updater = make_updater_of(make_trainer("baseline", {"max_grad_norm": 1e-3, "epochs": 1, "minibatches": 1}), spec)
    record = learn(updater, make_batch(spec))
    # After one update, Adam's first moment is 1 - beta1 times the gradient that was applied.
    applied = updater.optimizer.first.norm() / (1 - updater.context.trainer.optimizer.beta1)
    assert applied.item() == pytest.approx(1e-3, rel=1e-3)
    assert float(record.norms[-1]) > 0.01


def test_the_learning_rate_is_the_one_that_is_asked_for() -> None:
    # AdamW's first step is the learning rate times the sign of the gradient, where it is far above eps.
    spec = make_spec()
    updater = make_updater_of(make_trainer("baseline", {"epochs": 1, "minibatches": 1, "optimizer.eps": 1e-12}), spec)
    before = parameters_of(updater)
    learn(updater, make_batch(spec), learning_rate=0.0123)
    steps = np.abs(parameters_of(updater)["model.policy.weight"] - before["model.policy.weight"])
    np.testing.assert_allclose(steps, 0.0123, rtol=1e-3)


@pytest.mark.parametrize(("limit", "stopped", "updates"), [(1e-6, True, 2), (1e6, False, 6)])
def test_a_policy_that_moved_past_target_kl_ends_the_step_after_the_epoch(limit: float, stopped: bool, updates: int) -> None:
    spec = make_spec()
    updater = make_updater_of(make_trainer("baseline", {"epochs": 3, "losses.ppo_actor.target_kl": limit}), spec)
    record = learn(updater, make_batch(spec), learning_rate=0.05)
    assert (record.stopped_early, len(record.sums)) == (stopped, updates)
    assert record.gradients is not None, "an early end must not keep the losses' gradients from being measured"


def test_target_kl_is_compared_with_the_mean_over_the_last_epochs_steps() -> None:
    spec = make_spec()
    updater = make_updater_of(make_trainer("baseline", {"losses.ppo_actor.target_kl": 0.5}), spec)
    key = ("ppo_actor", "approx_kl")
    # Minibatches of 2 and 6 steps with sums 0.4 and 3.4: the mean is 3.8 / 8 = 0.475; with 3.8 it would be 0.525.
    for last, expected in ((3.4, False), (3.8, True)):
        sums = [torch.tensor([[100.0], [2.0]]), torch.tensor([[0.4], [2.0]]), torch.tensor([[last], [6.0]])]
        assert updater.moved_too_far(Record(keys=(key,), sums=sums), updates=2) == expected
    assert not updater.moved_too_far(Record(keys=(("ppo_critic", "value"),), sums=[torch.ones(2, 1)] * 2), updates=2)


def test_gradients_are_measured_as_often_as_asked_and_at_the_start() -> None:
    spec = make_spec()
    updater = make_updater_of(make_trainer(), spec, gradient_every=8)
    measured = [learn(updater, make_batch(spec, seed=seed)).gradients is not None for seed in range(5)]
    assert measured == [True, False, True, False, True], "four updates a step, every eight of them"


def test_statistics_of_the_batch_are_taken_only_where_the_step_is_reported() -> None:
    spec = make_spec()
    updater = make_updater_of(make_trainer(), spec)
    assert learn(updater, make_batch(spec), report=False).batch_sums is None
    record = learn(updater, make_batch(spec))
    assert record.batch_sums is not None
    assert record.batch_sums.shape == (2, len(record.batch_keys))


def run_twice(arm: str, **spec_settings: Any) -> list[tuple[Updater, list[Record]]]:
    runs = []
    for _ in range(2):
        spec = make_spec(**spec_settings)
        updater = make_updater_of(make_trainer(arm), spec)
        runs.append((updater, [learn(updater, make_batch(spec, seed=seed, absent=True)) for seed in range(3)]))
    return runs


@pytest.mark.parametrize(
    ("arm", "settings"),
    [(arm, {}) for arm in PLANS]
    + [("full", {"core": "lstm"}), ("full", {"value_head": "categorical"}), ("full", {"sizes": (40,)})],
)
def test_recorded_batches_give_the_same_losses_and_networks_to_the_bit(arm: str, settings: dict[str, Any]) -> None:
    (first, first_records), (second, second_records) = run_twice(arm, **settings)
    for one, other in zip(first_records, second_records, strict=True):
        assert one.keys == other.keys
        assert torch.equal(torch.stack(one.sums), torch.stack(other.sums))
        assert torch.equal(torch.stack(one.norms), torch.stack(other.norms))
        assert one.gradients is not None
        assert other.gradients is not None
        assert torch.equal(one.gradients, other.gradients)
        assert torch.isfinite(torch.stack(one.sums)).all()
    assert_same_arrays(parameters_of(first), parameters_of(second))


@pytest.mark.parametrize("arm", PLANS)
def test_permuting_the_batch_permutes_what_is_prepared_and_changes_no_loss(arm: str) -> None:
    spec = make_spec(core="gru")
    updater = make_updater_of(make_trainer(arm), spec)
    batch, order = make_batch(spec, absent=True), np.array([3, 0, 5, 1, 4, 2])
    results = []
    for trajectories in (batch, rows_of(batch, order)):
        updater.context.advantage_scale.load({"moment": 0.0, "weight": 0.0})
        values = updater.objective.prepare(inputs_of(updater, trajectories))
        weighed = weigh(updater, values)
        results.append((values, weighed, torch.autograd.grad(weighed.total, updater.parameters)))
    (values, weighed, gradients), (permuted, weighed_permuted, gradients_permuted) = results
    for name, value in values.items():
        if (value.ndim and not name.startswith("final_")) or name == "final_value_BT":
            torch.testing.assert_close(permuted[name], value[order], atol=1e-6, rtol=1e-5, equal_nan=False)
    torch.testing.assert_close(weighed_permuted.losses, weighed.losses, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(gradients_permuted, gradients, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"core": "lstm"}, {"value_head": "categorical"}, {"sizes": (2, 3), "factored": True}])
def test_bfloat16_comes_close_to_float32(settings: dict[str, Any]) -> None:
    spec = make_spec(**settings)
    losses = []
    for precision in ("float32", "bfloat16"):
        updater = make_updater_of(make_trainer("full", {"precision": precision, "epochs": 1, "minibatches": 1}), spec)
        record = learn(updater, make_batch(spec))
        assert record.skipped == 0
        assert all(parameter.dtype == torch.float32 for parameter in updater.parameters)
        losses.append(record.sums[0][0] / record.sums[0][1].clamp(min=1))
    torch.testing.assert_close(losses[1], losses[0], atol=0.03, rtol=0.05)


def test_burn_in_warms_the_state_up_and_is_not_trained_on() -> None:
    # With burn_in = 3 the first three steps' rewards are read by nobody, but their observations are, through the state.
    spec = make_spec(core="gru", burn_in=3)
    batch = make_batch(spec)
    batch = replace(batch, terminated=np.zeros_like(batch.terminated), truncated=np.zeros_like(batch.truncated))
    batch = replace(batch, final_observations=batch.final_observations[:0], final_trajectory=batch.final_trajectory[:0])
    batch = replace(batch, final_step=batch.final_step[:0])
    rewards, observations = batch.rewards.copy(), batch.observations.copy()
    rewards[:, :3] += 100
    observations[:, :3] += 1
    totals = []
    for changed in (batch, replace(batch, rewards=rewards), replace(batch, observations=observations)):
        updater = make_updater_of(make_trainer("full"), spec)
        shake(updater.context, seed=3)
        totals.append(weigh(updater, updater.objective.prepare(inputs_of(updater, changed))).total)
    assert torch.equal(totals[0], totals[1])
    assert not torch.equal(totals[0], totals[2])


@pytest.mark.parametrize("case", [{}, {"losses.cmpo.estimator": "sampled"}, {"losses.ppo_actor.anchor": "proximal"}])
def test_outputs_in_bfloat16_are_raised_to_float32_before_any_loss(case: dict[str, Any]) -> None:
    spec = make_spec(sizes=(5,), value_head="categorical")
    updater = make_updater_of(make_trainer("full", case), spec)
    values = updater.objective.prepare(inputs_of(updater, make_batch(spec)))
    ends = values["terminated_BT"] | values["truncated_BT"]
    outputs = updater.context.model(
        values["observations_BT1"][:, :-1], values["core_state_BS"], ends, values["actions_BT"], updater.plan.needs
    )
    rounded = {name: output.bfloat16() for name, output in outputs.items()}
    raised = {name: output.float() for name, output in rounded.items()}
    sums = [updater.objective.weigh(values, cast("ModelOutputs", given)).sums for given in (rounded, raised)]
    assert torch.equal(*sums)


@pytest.mark.parametrize("arm", ["baseline", "full"])
def test_a_batch_without_a_masked_step_is_learned_from_alike_when_its_mask_is_applied(
    arm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = weights_after_a_whole_batch(arm)
    weigh = Objective.weigh
    monkeypatch.setattr(Objective, "weigh", lambda *given, whole: weigh(*given, whole=not whole))
    torch.testing.assert_close(weights_after_a_whole_batch(arm), plain, rtol=1e-5, atol=1e-6)


def weights_after_a_whole_batch(arm: str) -> Tensor:
    spec = make_spec()
    updater = make_updater_of(make_trainer(arm, {}), spec)
    inputs = inputs_of(updater, make_batch(spec))
    assert inputs["mask_BT"].all()
    updater.learn(inputs, learning_rate=1e-2, report=True)
    return torch.cat([parameter.detach().flatten() for parameter in updater.parameters])
