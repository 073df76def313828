"""CMPO from drawn actions: weights, the policy that they make up, and the estimate of the KL, against loops and by hand."""

from __future__ import annotations

from itertools import product
from math import e, log
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor

from agent import distribution
from learner.loss import Term
from learner.losses.cmpo_sampled import SampledCmpo, SampledCmpoWrites
from learner.losses.policy_improvement import clipped_mpo_policy, entropy, kl_divergence, leave_one_out_weights
from tests.learner import oracles
from tests.learner.worlds import cmpo_context, random_normal

EVERYWHERE = torch.ones(1, 1, dtype=torch.bool)


def sampled_inputs(*, sizes: tuple[int, ...] = (3,), count: int = 6, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    log_probs = distribution.log_softmax(random_normal(seed, 2, 3, sum(sizes)).float(), sizes)
    drawn = torch.stack([torch.randint(n, (2, 3, count), generator=generator) for n in sizes], -1)
    return {
        "prior_log_probs_BTA": log_probs,
        "prior_actions_BTN": distribution.action_columns(drawn, sizes, factored=True),
        "prior_sampled_q_BTN": random_normal(seed + 1, 2, 3, count).float(),
        "prior_value_BT1": random_normal(seed + 2, 2, 4).float(),
        "sigma": torch.tensor(0.7),
    }


def prepared(loss: SampledCmpo, inputs: dict[str, Tensor]) -> SampledCmpoWrites:
    return loss.prepare(**inputs)


def test_leave_one_out_weights_of_two_draws_by_hand() -> None:
    # Advantages 1 and 0: e and 1. z_0 = (1 + 1) / 2 = 1, z_1 = (1 + e) / 2.
    weights = leave_one_out_weights(torch.tensor([[[1.0, 0.0]]], dtype=torch.float64), 1.0)
    np.testing.assert_allclose(weights.numpy()[0, 0], [e, 2 / (1 + e)], atol=1e-12)


@pytest.mark.parametrize("clip", [0.5, 2.0])
def test_leave_one_out_weights_are_the_papers(clip: float) -> None:
    advantage = 2 * random_normal(0, 2, 3, 7)
    expected = oracles.leave_one_out(advantage.numpy(), clip)
    np.testing.assert_allclose(leave_one_out_weights(advantage, clip).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("sizes", [(3,), (2, 3)])
@pytest.mark.parametrize(("baseline", "temperature"), [("prior_value", 1.0), ("prior_expected_q", 1.0), ("prior_value", 0.5)])
def test_the_drawn_actions_weights_make_up_a_policy(sizes: tuple[int, ...], baseline: str, temperature: float) -> None:
    inputs = sampled_inputs(sizes=sizes)
    changes = {"estimator": "sampled", "baseline": baseline, "temperature": temperature}
    loss = SampledCmpo(cmpo_context(changes, sizes=sizes, factored=len(sizes) > 1))
    written = prepared(loss, inputs)
    q, actions = inputs["prior_sampled_q_BTN"].numpy(), inputs["prior_actions_BTN"].numpy()
    values = inputs["prior_value_BT1"].numpy()[:, :-1] if baseline == "prior_value" else q.mean(-1)
    weights = oracles.leave_one_out((q - values[..., None]) / (0.7 * temperature), 1.0)
    expected = np.zeros((2, 3, sum(sizes)))
    for b, t, i in np.ndindex(weights.shape):
        expected[b, t, actions[b, t, i]] += weights[b, t, i] / weights[b, t].sum()
    np.testing.assert_allclose(written["cmpo_weights_BTN"].numpy(), weights, atol=1e-5)
    np.testing.assert_allclose(written["cmpo_policy_BTA"].numpy(), expected, atol=1e-6)


def test_the_sampled_loss_and_its_gradient_are_equation_12s() -> None:
    # d/dlogits of -1/N sum_i w_i log pi(a_i) = -1/N sum_i w_i (onehot(a_i) - pi).
    inputs = sampled_inputs()
    loss = SampledCmpo(cmpo_context({"estimator": "sampled", "kl_coef": 0.3}))
    written = prepared(loss, inputs)
    logits = random_normal(9, 2, 3, 3).float().requires_grad_()
    terms = loss.compute(
        logits_BTA=logits,
        prior_log_probs_BTA=inputs["prior_log_probs_BTA"],
        prior_actions_BTN=inputs["prior_actions_BTN"],
        cmpo_weights_BTN=written["cmpo_weights_BTN"],
        cmpo_policy_BTA=written["cmpo_policy_BTA"],
        cmpo_entropy_BT=written["cmpo_entropy_BT"],
        mask_BT=torch.ones(2, 3, dtype=torch.bool),
    )
    policy = logits.detach().softmax(-1)
    expected, gradient = torch.zeros(2, 3), torch.zeros(2, 3, 3)
    for b, t, i in np.ndindex(2, 3, 6):
        w, a = written["cmpo_weights_BTN"][b, t, i], int(inputs["prior_actions_BTN"][b, t, i, 0])
        expected[b, t] += w * (w.log() + inputs["prior_log_probs_BTA"][b, t, a] - policy[b, t, a].log()) / 6
        gradient[b, t] -= w * (torch.nn.functional.one_hot(torch.tensor(a), 3) - policy[b, t]) / 6
    torch.testing.assert_close(terms["kl"].value, expected)
    torch.testing.assert_close(torch.autograd.grad(terms["kl"].value.sum(), logits)[0], gradient)
    target = written["cmpo_policy_BTA"]
    torch.testing.assert_close(terms["cross_entropy"].value, -(target * policy.log()).sum(-1))
    assert terms["target_entropy"].value is written["cmpo_entropy_BT"]
    assert cast("Term", terms["kl"]).coef == 0.3
    assert not terms["cross_entropy"].value.requires_grad


def test_the_sampled_loss_of_a_factored_action_takes_its_joint_probability() -> None:
    sizes = (2, 3)
    inputs = sampled_inputs(sizes=sizes)
    loss = SampledCmpo(cmpo_context({"estimator": "sampled"}, sizes=sizes, factored=True))
    written = prepared(loss, inputs)
    logits = random_normal(9, 2, 3, 5).float()
    terms = loss.compute(
        logits_BTA=logits,
        prior_log_probs_BTA=inputs["prior_log_probs_BTA"],
        prior_actions_BTN=inputs["prior_actions_BTN"],
        cmpo_weights_BTN=written["cmpo_weights_BTN"],
        cmpo_policy_BTA=written["cmpo_policy_BTA"],
        cmpo_entropy_BT=written["cmpo_entropy_BT"],
        mask_BT=torch.ones(2, 3, dtype=torch.bool),
    )
    ratio = inputs["prior_log_probs_BTA"] - distribution.log_softmax(logits, sizes)
    for b, t in np.ndindex(2, 3):
        expected = 0.0
        for i in range(6):
            w = written["cmpo_weights_BTN"][b, t, i].item()
            expected += w * (log(w) + sum(ratio[b, t, a].item() for a in inputs["prior_actions_BTN"][b, t, i])) / 6
        assert terms["kl"].value[b, t].item() == pytest.approx(expected, abs=1e-5)


def test_many_draws_come_to_the_exact_target_and_kl() -> None:
    # 40,000 draws of an even prior of three: standard errors below 0.004.
    count = 40_000
    q = torch.tensor([0.9, -0.4, 0.1])
    drawn = torch.randint(3, (1, 1, count, 1), generator=torch.Generator().manual_seed(0))
    prior = torch.zeros(1, 1, 3).log_softmax(-1)
    loss = SampledCmpo(cmpo_context({"estimator": "sampled"}))
    written = loss.prepare(
        prior_log_probs_BTA=prior,
        prior_actions_BTN=drawn,
        prior_sampled_q_BTN=q[drawn[..., 0]],
        prior_value_BT1=torch.zeros(1, 2),
        sigma=torch.tensor(1.0),
    )
    exact = clipped_mpo_policy(prior, q.view(1, 1, 3))
    torch.testing.assert_close(written["cmpo_policy_BTA"], exact, atol=0.01, rtol=0)
    torch.testing.assert_close(written["cmpo_entropy_BT"], -(exact * exact.log()).sum(-1), atol=0.01, rtol=0)
    logits = torch.tensor([[[0.5, 0.1, -0.7]]])
    terms = loss.compute(
        logits_BTA=logits,
        prior_log_probs_BTA=prior,
        prior_actions_BTN=drawn,
        cmpo_weights_BTN=written["cmpo_weights_BTN"],
        cmpo_policy_BTA=written["cmpo_policy_BTA"],
        cmpo_entropy_BT=written["cmpo_entropy_BT"],
        mask_BT=EVERYWHERE,
    )
    expected = kl_divergence(exact, logits.log_softmax(-1), entropy(exact))
    torch.testing.assert_close(terms["kl"].value, expected, atol=0.01, rtol=0)
    statistics = loss.measure(
        prior_value_BT1=torch.zeros(1, 2),
        prior_sampled_q_BTN=q[drawn[..., 0]],
        cmpo_sampled_advantage_BTN=written["cmpo_sampled_advantage_BTN"],
        cmpo_weights_BTN=written["cmpo_weights_BTN"],
        sigma=torch.tensor(1.0),
        mask_BT=EVERYWHERE,
        prior_taken_q_BT=torch.zeros(1, 1),
        advantage_BT=torch.zeros(1, 1),
        fresh_B=torch.ones(1, dtype=torch.bool),
    )
    variation = 0.5 * (exact - prior.exp()).abs().sum(-1)
    torch.testing.assert_close(statistics["total_variation"].value, variation, atol=0.01, rtol=0)


@pytest.mark.parametrize("count", [2, 3])
def test_the_expected_gradient_of_drawn_actions_points_where_the_exact_one_does(count: int) -> None:
    # Every draw of N actions, weighed by its probability under the prior: E[g] = E[z / z_i] (pi - pi_cmpo), because an
    # action's own normaliser does not depend on it. With i in its own normaliser the directions would differ.
    prior, q = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64), torch.tensor([0.9, -0.8, 0.4], dtype=torch.float64)
    logits = torch.tensor([[[0.2, -0.4, 0.7]]], dtype=torch.float64)
    loss = SampledCmpo(cmpo_context({"estimator": "sampled"}))
    expected = torch.zeros(3, dtype=torch.float64)
    for draw in product(range(3), repeat=count):
        written = loss.prepare(
            prior_log_probs_BTA=prior.log().view(1, 1, 3),
            prior_actions_BTN=torch.tensor(draw).view(1, 1, count, 1),
            prior_sampled_q_BTN=q[list(draw)].view(1, 1, count),
            prior_value_BT1=torch.zeros(1, 2, dtype=torch.float64),
            sigma=torch.tensor(1.0, dtype=torch.float64),
        )
        policy = logits[0, 0].softmax(-1)
        for action, weight in zip(draw, written["cmpo_weights_BTN"][0, 0], strict=True):
            step = policy - torch.nn.functional.one_hot(torch.tensor(action), 3)
            expected += prior[list(draw)].prod() * weight * step / count
    exact = logits[0, 0].softmax(-1) - clipped_mpo_policy(prior.log().view(1, 1, 3), q.view(1, 1, 3))[0, 0]
    torch.testing.assert_close(expected / expected.norm(), exact / exact.norm(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("sizes", [(157,), (9, 8)])
def test_the_entropy_is_that_of_the_whole_policy_and_not_of_the_few_actions_that_were_drawn(sizes: tuple[int, ...]) -> None:
    # No advantage and an even prior: every weight is 1 and the policy is the prior, whose entropy is the sum of ln n. The 16
    # drawn actions alone could show no more than ln 16 = 2.77 of it, and muesli_model would report a KL that nothing removes.
    count = 16
    drawn = torch.stack([torch.randint(n, (1, 1, count), generator=torch.Generator().manual_seed(0)) for n in sizes], -1)
    loss = SampledCmpo(cmpo_context({"estimator": "sampled"}, sizes=sizes, factored=len(sizes) > 1))
    written = loss.prepare(
        prior_log_probs_BTA=distribution.log_softmax(torch.zeros(1, 1, sum(sizes)), sizes),
        prior_actions_BTN=distribution.action_columns(drawn, sizes, factored=True),
        prior_sampled_q_BTN=torch.zeros(1, 1, count),
        prior_value_BT1=torch.zeros(1, 2),
        sigma=torch.tensor(1.0),
    )
    assert written["cmpo_entropy_BT"].item() == pytest.approx(sum(log(n) for n in sizes), abs=1e-5)


def test_the_entropy_of_drawn_actions_by_hand() -> None:
    # Prior (0.8, 0.2), both drawn once with advantages 1 and 0: w = (e, 2 / (1 + e)) as above, and
    # H = -(w0 log(0.8 w0) + w1 log(0.2 w1)) / (w0 + w1).
    loss = SampledCmpo(cmpo_context({"estimator": "sampled"}, sizes=(2,)))
    written = loss.prepare(
        prior_log_probs_BTA=torch.tensor([[[log(0.8), log(0.2)]]]),
        prior_actions_BTN=torch.tensor([[[[0], [1]]]]),
        prior_sampled_q_BTN=torch.tensor([[[1.0, 0.0]]]),
        prior_value_BT1=torch.zeros(1, 2),
        sigma=torch.tensor(1.0),
    )
    first, second = e, 2 / (1 + e)
    expected = -(first * log(0.8 * first) + second * log(0.2 * second)) / (first + second)
    assert written["cmpo_entropy_BT"].item() == pytest.approx(expected, abs=1e-6)


def test_statistics_of_drawn_advantages_by_hand() -> None:
    # Advantages -2, 0, 1, 0 at a clip of 1: mean -0.25, variance (4 + 1) / 4 - 1/16, and one is cut. Mean q 0.1, v 0.3.
    # Weights 0.5, 1, 2, 0.5 lie 2 from 1 in all: half of their mean distance is 0.25.
    loss = SampledCmpo(cmpo_context({"estimator": "sampled"}))
    found = loss.measure(
        prior_taken_q_BT=torch.zeros(1, 2),
        advantage_BT=torch.zeros(1, 2),
        prior_value_BT1=torch.tensor([[0.3, 0.2, 9.0]]),
        prior_sampled_q_BTN=torch.tensor([[[0.7, 0.0, -0.3, 0.0], [0.2, 0.2, 0.2, 0.2]]]),
        cmpo_sampled_advantage_BTN=torch.tensor([[[-2.0, 0.0, 1.0, 0.0], [0.5, 0.5, 0.5, 0.5]]]),
        cmpo_weights_BTN=torch.tensor([[[0.5, 1.0, 2.0, 0.5], [1.0, 1.0, 1.0, 1.0]]]),
        sigma=torch.tensor(0.5),
        mask_BT=torch.ones(1, 2, dtype=torch.bool),
        fresh_B=torch.ones(1, dtype=torch.bool),
    )
    assert found.pop("advantage_agreement").value.isnan().all()  # the returns tell nothing apart
    assert {name: entry.value[0].tolist() for name, entry in found.items()} == {
        "adv_mean": pytest.approx([-0.25, 0.5]),
        "adv_std": pytest.approx([1.1875**0.5, 0]),
        "advantage_clipped": [0.25, 0],
        "total_variation": [0.25, 0],
        "baseline_offset": pytest.approx([0.4, 0]),
        "sigma": [0.5, 0.5],
    }


def test_the_agreement_compares_the_taken_actions_q_with_returns_on_fresh_rows() -> None:
    loss = SampledCmpo(cmpo_context({"estimator": "sampled"}))
    drawn_q, taken_q, advantage = (random_normal(seed, 2, 4, *rest).float() for seed, rest in ((1, (5,)), (2, ()), (3, ())))
    found = loss.measure(
        prior_value_BT1=torch.zeros(2, 5),
        prior_sampled_q_BTN=drawn_q,
        prior_taken_q_BT=taken_q,
        cmpo_sampled_advantage_BTN=drawn_q,
        cmpo_weights_BTN=drawn_q.exp(),
        sigma=torch.tensor(1.0),
        advantage_BT=advantage,
        mask_BT=torch.ones(2, 4, dtype=torch.bool),
        fresh_B=torch.tensor([True, False]),
    )
    expected = np.corrcoef((taken_q - drawn_q.mean(-1))[0], advantage[0])[0, 1]  # the second row is replayed
    np.testing.assert_allclose(found["advantage_agreement"].value, expected, atol=1e-5)
    assert found["advantage_agreement"].mask.tolist() == [[True] * 4, [False] * 4]
