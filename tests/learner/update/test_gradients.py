"""What each loss does to the trunk, against autograd by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from learner.ranks.reduce import OneRank
from learner.update.gradients import trunk_gradients
from tests.learner.worlds import PLANS, inputs_of, make_batch, make_spec, make_trainer, make_updater_of, weigh


def test_norms_and_cosines_by_hand() -> None:
    # Gradients (3, 4) and (0, 5): norms 5 and 5; the sum is (3, 9), of norm sqrt(90): both cosines are 45 / (5 sqrt 90).
    x = nn.Parameter(torch.zeros(2))
    losses = {"a": 3 * x[0] + 4 * x[1], "b": 5 * x[1]}
    measured = trunk_gradients(losses, [x], OneRank())
    torch.testing.assert_close(measured, torch.tensor([[5.0, 9 / math.sqrt(90)], [5.0, 9 / math.sqrt(90)]]))


def test_opposite_losses_have_opposite_signs_and_one_that_reaches_nothing_has_none() -> None:
    x, unread = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(3))
    losses = {"up": 3 * x.sum(), "down": -x.sum(), "none": torch.zeros(()), "elsewhere": nn.Parameter(torch.ones(1)).sum()}
    measured = trunk_gradients(losses, [x, unread], OneRank())
    assert measured.tolist() == [[3, 1], [1, -1], [0, 0], [0, 0]]


@pytest.mark.parametrize(("elsewhere", "norm"), [(1.0, 2.0), (-3.0, 0.0)])
def test_gradients_are_averaged_over_ranks_before_the_norm(elsewhere: float, norm: float) -> None:
    # This rank's gradient is 3. With one of -3 elsewhere nothing is left, where a mean of norms would say 3.
    class Other:
        world_size = 2

        def sum(self, values: Tensor) -> Tensor:
            return values + elsewhere

    x = nn.Parameter(torch.zeros(1))
    assert trunk_gradients({"a": 3 * x.sum()}, [x], Other())[0, 0].item() == norm


@pytest.mark.parametrize("core", ["none", "lstm"])
@pytest.mark.parametrize("arm", PLANS)
def test_every_losss_norm_is_that_of_its_own_backward_pass(arm: str, core: str) -> None:
    spec = make_spec(core=core)
    updater = make_updater_of(make_trainer(arm), spec)
    values = updater.objective.prepare(inputs_of(updater, make_batch(spec)))
    measured = trunk_gradients(weigh(updater, values).losses, updater.trunk, OneRank())
    flat = []
    for name in updater.plan.losses:
        for parameter in updater.parameters:
            parameter.grad = None
        torch.autograd.backward(weigh(updater, values).losses[name])
        flat.append(torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in updater.trunk]))
    total = torch.stack(flat).sum(0)
    for row, gradient in zip(measured, flat, strict=True):
        torch.testing.assert_close(row[0], gradient.norm(), rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(row[1], torch.cosine_similarity(gradient, total, 0), rtol=1e-3, atol=1e-4)
    assert (measured[:, 0] > 0).all()


def test_the_graph_is_kept_for_the_backward_pass() -> None:
    spec = make_spec()
    updater = make_updater_of(make_trainer(), spec)
    weighed = weigh(updater, updater.objective.prepare(inputs_of(updater, make_batch(spec))))
    trunk_gradients(weighed.losses, updater.trunk, OneRank())
    assert all(parameter.grad is None for parameter in updater.parameters)
    torch.autograd.backward(weighed.total)
    assert all(parameter.grad is not None for parameter in updater.parameters)
