"""The model unrolled from a part of the steps: the same objective and gradient in expectation, from the drawn steps alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from learner.loss import Statistic, Term
from learner.update.forward import STARTS, model_outputs
from learner.update.objective import Weighed
from learner.update.starts import Starts, draw
from learner.update.updater import Updater
from tests.learner.worlds import inputs_of, learn, make_batch, make_spec, make_trainer, make_updater_of, weigh

MODEL = ("dynamics", "muesli_model")
HORIZON = {"losses.muesli_model.policy_horizon": 2, "losses.muesli_model.policy_pred_coef": 0.7}


def updater_of(fraction: float = 1.0, changes: Mapping[str, Any] | None = None, **spec: Any) -> Updater:
    trainer = make_trainer("full", {"losses.dynamics.start_fraction": fraction, **HORIZON, **(changes or {})})
    return make_updater_of(trainer, make_spec(**spec))


def weighed_at(updater: Updater, values: Mapping[str, Tensor], starts: Tensor | None) -> Weighed:
    rows = torch.arange(len(values["mask_BT"]))
    minibatch = {n: v for n, v in updater.objective.minibatch(values, rows).items() if n != STARTS}
    if starts is not None:
        minibatch[STARTS] = starts
    return updater.objective.weigh(minibatch, model_outputs(updater.wrapped, minibatch, updater.plan.needs))


def gradient_of(updater: Updater, loss: Tensor) -> Tensor:
    parameters = [p for p in updater.context.model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(parameters, gradients, strict=True)])


def test_over_all_draws_objective_and_gradient_are_those_of_all_starts() -> None:
    # 2 trajectories of 3 steps with ends and an absent agent: all 15 pairs of starts, which are equally likely.
    updater = updater_of(0.3)
    batch = replace(
        make_batch(updater.context.model.spec, size=2, steps=3, seed=2), importance=np.array([1.0, 0.4], np.float32)
    )
    batch.valid[1, 0] = False
    values = updater.objective.prepare(inputs_of(updater, batch))
    whole = weighed_at(updater, values, None)
    found = [weighed_at(updater, values, torch.tensor(pair)) for pair in combinations(range(6), 2)]
    for name in MODEL:
        mean = torch.stack([weighed.losses[name] for weighed in found]).mean()
        torch.testing.assert_close(mean, whole.losses[name], atol=1e-6, rtol=1e-5)
    for name in ("ppo_actor", "ppo_critic", "cmpo"):
        assert {weighed.losses[name].item() for weighed in found} == {whole.losses[name].item()}
    mean = torch.stack([gradient_of(updater, weighed.total) for weighed in found]).mean(0)
    torch.testing.assert_close(mean, gradient_of(updater, whole.total), atol=1e-6, rtol=1e-5)
    counts = {tuple(weighed.sums[1, weighed.keys.index(("dynamics", "returns"))].reshape(1).tolist()) for weighed in found}
    assert len(counts) == 1, "all starts are counted, so that draws are not divided by their own number"


@pytest.mark.parametrize("changes", [{}, {"shuffle": "steps"}], ids=["trajectories", "steps"])
def test_the_terms_are_the_drawn_steps_own_in_numpy(changes: dict[str, Any]) -> None:
    updater = updater_of(0.5, changes)
    values = updater.objective.prepare(inputs_of(updater, make_batch(updater.context.model.spec, seed=4)))
    drawn_from = updater.objective.drawn_from(values)
    (minibatch,) = updater.objective.minibatches(drawn_from, [torch.randperm(len(drawn_from["mask_BT"]))])
    starts = minibatch[STARTS].numpy()
    assert len(set(starts.tolist())) == len(starts) == minibatch["mask_BT"].numel() // 2
    outputs = model_outputs(updater.wrapped, minibatch, updater.plan.needs)
    every = model_outputs(updater.wrapped, {n: v for n, v in minibatch.items() if n != STARTS}, updater.plan.needs)
    for name in ("model_reward_raw_BTK", "model_value_raw_BTK", "model_logits_BTKA"):
        expected = every[name].flatten(0, 1)[minibatch[STARTS]].unsqueeze(1)
        torch.testing.assert_close(outputs[name], expected)
    losses = updater.objective.weigh(minibatch, outputs).losses
    raw, target, mask = (
        tensor.detach().numpy().reshape(-1, 3)
        for tensor in (every["model_value_raw_BTK"], minibatch["model_value_target_BTK"], minibatch["model_value_mask_BTK"])
    )
    expected = sum(0.5 * (raw[i, k] - target[i, k]) ** 2 for i in starts for k in range(3) if mask[i, k])
    reward, of_reward, counted = (
        tensor.detach().numpy().reshape(-1, 3)
        for tensor in (every["model_reward_raw_BTK"], minibatch["model_reward_target_BTK"], minibatch["model_reward_mask_BTK"])
    )
    rewards = sum(0.5 * (reward[i, k] - of_reward[i, k]) ** 2 for i in starts for k in range(3) if counted[i, k])
    factor = len(raw) / len(starts)
    np.testing.assert_allclose(losses["dynamics"].item(), factor * (expected / mask.sum() + rewards / counted.sum()), rtol=1e-5)


def test_all_starts_are_all_steps_in_any_order() -> None:
    updater = updater_of()
    values = updater.objective.prepare(inputs_of(updater, make_batch(updater.context.model.spec, absent=True)))
    whole, drawn = weighed_at(updater, values, None), weighed_at(updater, values, torch.randperm(42))
    torch.testing.assert_close(drawn.total, whole.total)
    torch.testing.assert_close(drawn.sums, whole.sums)


@pytest.mark.parametrize(
    "spec", [{}, {"core": "gru"}, {"sizes": (2, 3), "factored": True}, {"sizes": (), "numbers": 2, "factored": True}]
)
def test_a_learner_step_draws_for_each_update_and_reports_all_numbers(spec: dict[str, Any]) -> None:
    whole, part = updater_of(1.0, **spec), updater_of(0.4, **spec)
    batch = make_batch(whole.context.model.spec, absent=True)
    keys = learn(whole, batch).keys
    record = learn(part, batch)
    assert record.keys == keys
    assert not record.skipped
    assert torch.stack(record.sums)[:, 0].isfinite().all()


def test_nothing_is_drawn_without_a_model_or_of_all() -> None:
    for arm, fraction in (("baseline", 0.5), ("full", 1.0)):
        updater = make_updater_of(make_trainer(arm, {"losses.dynamics.start_fraction": fraction}), make_spec())
        values = updater.objective.prepare(inputs_of(updater, make_batch(updater.context.model.spec)))
        before = updater.context.generator.get_state()
        weigh(updater, values)
        assert STARTS not in updater.objective.minibatch(values, torch.arange(6))
        assert torch.equal(updater.context.generator.get_state(), before)


def test_a_draw_has_different_positions_and_at_least_one() -> None:
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(2, 5, dtype=torch.bool)
    assert [len(draw(mask, fraction, generator)) for fraction in (0.01, 0.25, 0.5, 0.99)] == [1, 2, 5, 10]
    counts = torch.stack([torch.bincount(draw(mask, 0.3, generator), minlength=10) for _ in range(2000)]).sum(0)
    assert counts.sum() == 6000
    assert counts.sub(600).abs().max() < 100  # five standard deviations of sqrt(2000 * 0.3 * 0.7)


def test_a_mask_that_the_loss_made_itself_counts_the_drawn_values() -> None:
    starts = Starts(torch.tensor([0, 3]), torch.ones(2, 2, dtype=torch.bool))
    own = Term(torch.ones(2, 1), torch.ones(2, 1, dtype=torch.bool), 1.0)
    assert starts.expanded(own) is own
    mask = starts.at("seen_BT", torch.ones(2, 2, dtype=torch.bool))
    for kind in (Term(torch.ones(2, 1), mask, 3.0), Statistic(torch.ones(2, 1), mask)):
        assert starts.expanded(kind).value.tolist() == [[2.0], [2.0]]
