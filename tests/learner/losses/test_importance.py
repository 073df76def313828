"""Rows that were sampled by priority: what they count for in the losses, and what the learner says of every row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from agent.model import ModelNeeds
from learner.loss import Loss, Node, Statistic, Term, Terms
from learner.plan import Plan
from learner.update.objective import Objective
from learner.update.priorities import priorities_of
from protocol.data.batch import Batch
from tests.learner.worlds import (
    PLANS,
    assert_same_arrays,
    inputs_of,
    learn,
    make_batch,
    make_context,
    make_spec,
    make_trainer,
    make_updater_of,
    parameters_of,
    weigh,
)

NAN = float("nan")
MASK = torch.tensor([[True, True], [True, False]])


class Rows(Loss):
    """Terms of known numbers of two rows of two steps, of which the last does not count."""

    name = "rows"

    def compute(self, *, x_BT: Tensor) -> Terms:
        return {
            "x": Term(x_BT, MASK, 2.0),
            "deep": Term(torch.stack([x_BT, 2 * x_BT], -1), torch.stack([MASK, MASK], -1), 1.0),
            "alone": Term(torch.tensor(5.0), torch.tensor(data=True), 1.0),
            "seen": Statistic(x_BT.detach(), MASK),
        }


def objective_of(*nodes: type[Node]) -> Objective:
    return Objective(Plan(nodes, {}, (), ModelNeeds()), make_context())


def test_each_rows_terms_are_multiplied_and_the_count_stays() -> None:
    x = torch.tensor([[1.0, 2.0], [4.0, NAN]], requires_grad=True)
    importance = torch.tensor([1.0, 0.5])
    weighed = objective_of(Rows).weigh({"x_BT": x, "importance_B": importance}, {})  # type: ignore[typeddict-item]
    # x: 2 * (1 + 2 + 0.5 * 4) / 3 = 10/3; deep: (1 + 2 + 2 + 4 + 0.5 * (4 + 8)) / 6 = 15/6; alone has no rows: 5.
    assert weighed.losses["rows"].item() == pytest.approx(10 / 3 + 2.5 + 5)
    assert weighed.sums.tolist() == [[5, 15, 5, 7], [3, 6, 1, 3]], "statistics are of the rows as they are"
    # d/dx: 2 w / 3 of the first term and (1 + 2) w / 6 of the second, and 0 where it does not count.
    (gradient,) = torch.autograd.grad(weighed.total, x)
    first = 2 / 3 + 3 / 6
    torch.testing.assert_close(gradient, torch.tensor([[first, first], [first / 2, 0.0]]))


def with_importance(batch: Batch, *numbers: float) -> Batch:
    return replace(batch, importance=np.array(numbers, np.float32))


@pytest.mark.parametrize("arm", PLANS)
def test_rows_that_all_count_for_1_change_nothing_to_the_bit(arm: str) -> None:
    spec = make_spec()
    batch = make_batch(spec, absent=True)
    found = []
    for given in (batch, with_importance(batch, *[1.0] * batch.size)):
        updater = make_updater_of(make_trainer(arm), spec)
        learn(updater, given)
        found.append(parameters_of(updater))
    assert_same_arrays(*found)
    assert "importance_B" not in inputs_of(updater, given), "nothing is multiplied at all"


@pytest.mark.parametrize("arm", PLANS)
def test_multiplying_by_1_is_to_the_bit_what_not_multiplying_is(arm: str) -> None:
    spec = make_spec(core="gru")
    updater = make_updater_of(make_trainer(arm), spec)
    inputs = inputs_of(updater, make_batch(spec, absent=True))
    values = updater.objective.prepare(inputs)
    plain, ones = weigh(updater, values), weigh(updater, values | {"importance_B": torch.ones(6)})
    assert [loss.item() for loss in plain.losses.values()] == [loss.item() for loss in ones.losses.values()]
    gradients = [torch.autograd.grad(weighed.total, updater.parameters) for weighed in (plain, ones)]
    assert all(torch.equal(first, second) for first, second in zip(*gradients, strict=True))


def test_a_gradient_is_the_sum_of_its_rows_gradients_each_times_what_the_row_counts_for() -> None:
    spec = make_spec()
    updater = make_updater_of(make_trainer("full", {"minibatches": 1}), spec)
    values = updater.objective.prepare(inputs_of(updater, make_batch(spec, absent=True)))
    importance = torch.tensor([1.0, 0.5, 0.25, 1.0, 0.125, 0.75])

    def gradient(numbers: Tensor) -> Tensor:
        total = weigh(updater, values | {"importance_B": numbers}).total
        return torch.cat([part.flatten() for part in torch.autograd.grad(total, updater.parameters)])

    rows = torch.stack([gradient(row) for row in torch.eye(6)])
    torch.testing.assert_close(gradient(importance), importance @ rows, atol=1e-6, rtol=1e-5)
    assert (gradient(importance) - gradient(torch.ones(6))).abs().max() > 1e-3


def test_minibatches_take_their_rows_along() -> None:
    spec = make_spec()
    updater = make_updater_of(make_trainer(), spec)
    inputs = inputs_of(updater, with_importance(make_batch(spec), 1, 0.5, 0.25, 1, 0.125, 0.75))
    minibatch = updater.objective.minibatch(updater.objective.prepare(inputs), torch.tensor([4, 1]))
    assert minibatch["importance_B"].tolist() == [0.125, 0.5]


def test_a_priority_is_the_mean_absolute_error_of_the_steps_that_count() -> None:
    values = {
        "value_target_BT": torch.tensor([[1.0, 5.0], [2.0, NAN], [NAN, 1.0], [7.0, 7.0]]),
        "old_value_BT1": torch.tensor([[3.0, 4.0, 99.0], [0.5, 0.0, 99.0], [0.0, 0.0, 99.0], [0.0, 0.0, 99.0]]),
        "mask_BT": torch.tensor([[True, True], [True, False], [True, True], [False, False]]),
    }
    # (|1 - 3| + |5 - 4|) / 2, |2 - 0.5|, an error that is none, no step at all.
    assert priorities_of(values).tolist() == [1.5, 1.5, 0.0, 0.0]


@pytest.mark.parametrize("arm", PLANS)
def test_every_plan_gives_priorities_when_it_is_asked_and_only_then(arm: str) -> None:
    spec = make_spec()
    updater = make_updater_of(make_trainer(arm), spec)
    inputs = inputs_of(updater, make_batch(spec))
    values = updater.objective.prepare(inputs)
    expected = (values["value_target_BT"] - values["old_value_BT1"][:, :-1]).abs().mean(1)
    updater = make_updater_of(make_trainer(arm), spec)
    record = updater.learn(inputs, learning_rate=1e-2, report=False, priorities=True)
    assert record.priorities is not None
    torch.testing.assert_close(record.priorities, expected)
    assert updater.learn(inputs, learning_rate=1e-2, report=False).priorities is None
