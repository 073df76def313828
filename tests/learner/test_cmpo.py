"""CMPO: the target and the KL against loops and by hand, its plug-ins, and what must not be read or moved."""

from __future__ import annotations

from math import e, log
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from agent import distribution
from learner.loss import Context, Question, Term
from learner.losses import cmpo
from learner.losses.cmpo import (
    ExactCmpo,
    ReturnCmpo,
    SampledCmpo,
    SampledCmpoWrites,
    clipped_mpo_policy,
    kl_divergence,
    leave_one_out_weights,
)
from protocol.errors import SettingsError
from protocol.spaces import ActionSpace
from tests.learner import oracles
from tests.learner.worlds import make_context, make_spec, make_trainer

EVERYWHERE = torch.ones(1, 1, dtype=torch.bool)


def context(changes: dict[str, Any] | None = None, **spec: Any) -> Context:
    paths = {f"losses.cmpo.{name}": value for name, value in (changes or {}).items()}
    return make_context(make_trainer("full", paths), make_spec(**spec))


def random_logits(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_an_even_prior_with_large_advantages_is_tilted_by_the_clip_alone() -> None:
    # By hand: weights 0.5 * e^1 and 0.5 * e^-1 after the cut, so p = e / (e + 1/e).
    target = clipped_mpo_policy(torch.zeros(1, 1, 2, dtype=torch.float64), torch.tensor([[[50.0, -50.0]]]))
    assert target[0, 0, 0].item() == pytest.approx(e / (e + 1 / e), abs=1e-12)


@pytest.mark.parametrize("clip", [0.3, 1.0, 5.0])
def test_the_target_is_the_papers(clip: float) -> None:
    logits, advantage = random_logits(0, 3, 4, 5), 2 * random_logits(1, 3, 4, 5)
    expected = oracles.cmpo_target(oracles.softmax(logits.numpy()), advantage.numpy(), clip)
    np.testing.assert_allclose(clipped_mpo_policy(logits, advantage, clip=clip).numpy(), expected, atol=1e-14)


def test_each_factor_is_tilted_and_normalised_by_itself() -> None:
    logits, advantage = random_logits(0, 2, 3, 5), random_logits(1, 2, 3, 5)
    target = clipped_mpo_policy(logits, advantage, (2, 3))
    parts = [clipped_mpo_policy(logits[..., part], advantage[..., part]) for part in (slice(0, 2), slice(2, 5))]
    torch.testing.assert_close(target, torch.cat(parts, -1))


def test_an_advantage_without_an_action_axis_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected an advantage for every action, \(2, 3, 4\), got \(2, 3\)"):
        clipped_mpo_policy(torch.zeros(2, 3, 4), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="expected an advantage for every action"):
        clipped_mpo_policy(torch.zeros(2, 3, 4), torch.zeros(2, 3, 1))


@pytest.mark.parametrize("clip", [0.0, -1.0, float("nan"), float("inf")])
def test_a_clip_that_is_no_finite_number_above_0_is_refused(clip: float) -> None:
    with pytest.raises(ValueError, match="clip must be a finite number above 0"):
        clipped_mpo_policy(torch.zeros(1, 1, 2), torch.zeros(1, 1, 2), clip=clip)


def test_the_kl_is_the_definitions_and_a_target_of_0_adds_nothing() -> None:
    rng = np.random.default_rng(0)
    target, policy = oracles.softmax(rng.normal(size=(3, 4))), oracles.softmax(rng.normal(size=(3, 4)))
    target[0] = [0.5, 0.5, 0, 0]
    divergence, entropy = kl_divergence(torch.from_numpy(target), torch.from_numpy(policy).log())
    np.testing.assert_allclose(divergence.numpy(), oracles.kl(target, policy), atol=1e-14)
    assert entropy[0].item() == pytest.approx(log(2))


def test_the_gradient_of_the_kl_is_the_policy_minus_the_target() -> None:
    loss = ExactCmpo(context({"kl_coef": 0.3}))
    logits = random_logits(0, 2, 3, 3).float().requires_grad_()
    target = random_logits(1, 2, 3, 3).float().softmax(-1).requires_grad_()
    term = loss.compute(logits_BTA=logits, cmpo_policy_BTA=target, mask_BT=torch.ones(2, 3, dtype=torch.bool))["kl"]
    assert cast("Term", term).coef == 0.3
    (gradient,) = torch.autograd.grad(term.value.sum(), logits)
    torch.testing.assert_close(gradient, logits.detach().softmax(-1) - target.detach())


def test_the_cross_entropy_and_the_targets_entropy_differ_by_the_kl() -> None:
    terms = ExactCmpo(context()).compute(
        logits_BTA=random_logits(0, 2, 3, 3),
        cmpo_policy_BTA=random_logits(1, 2, 3, 3).softmax(-1),
        mask_BT=torch.ones(2, 3).bool(),
    )
    torch.testing.assert_close(terms["kl"].value, terms["cross_entropy"].value - terms["target_entropy"].value)
    assert not terms["cross_entropy"].value.requires_grad


def exact_inputs(*, sizes: tuple[int, ...] = (3,), seed: int = 0) -> dict[str, Tensor]:
    logits = random_logits(seed, 2, 4, sum(sizes))
    return {
        "prior_log_probs_BTA": distribution.log_softmax(logits, sizes),
        "prior_q_BTA": random_logits(seed + 1, 2, 4, sum(sizes)),
        "prior_value_BT1": random_logits(seed + 2, 2, 5),
        "sigma": torch.tensor(0.7, dtype=torch.float64),
    }


@pytest.mark.parametrize("baseline", ["prior_value", "prior_expected_q"])
def test_the_exact_target_is_made_of_q_minus_the_baseline_over_sigma(baseline: str) -> None:
    inputs = exact_inputs()
    written = ExactCmpo(context({"baseline": baseline, "advantage_clip": 0.8})).prepare(**inputs)
    prior, q = inputs["prior_log_probs_BTA"].exp().numpy(), inputs["prior_q_BTA"].numpy()
    values = inputs["prior_value_BT1"].numpy()[:, :-1] if baseline == "prior_value" else (prior * q).sum(-1)
    advantage = (q - values[..., None]) / 0.7
    np.testing.assert_allclose(written["cmpo_advantage_BTA"].numpy(), advantage, atol=1e-12)
    np.testing.assert_allclose(written["cmpo_policy_BTA"].numpy(), oracles.cmpo_target(prior, advantage, 0.8), atol=1e-12)


def test_with_several_factors_each_has_its_own_expectation_as_baseline() -> None:
    inputs = exact_inputs(sizes=(2, 3))
    written = ExactCmpo(context(sizes=(2, 3), factored=True)).prepare(**inputs)
    prior, q = inputs["prior_log_probs_BTA"].exp().numpy(), inputs["prior_q_BTA"].numpy()
    for part in (slice(0, 2), slice(2, 5)):
        expected = (q[..., part] - (prior[..., part] * q[..., part]).sum(-1, keepdims=True)) / 0.7
        np.testing.assert_allclose(written["cmpo_advantage_BTA"][..., part].numpy(), expected, atol=1e-12)
        target = oracles.cmpo_target(prior[..., part], expected, 1.0)
        np.testing.assert_allclose(written["cmpo_policy_BTA"][..., part].numpy(), target, atol=1e-12)


def test_the_returns_advantage_tilts_the_taken_action_alone() -> None:
    # Advantage 0.4 over sigma 2 is 0.2; an even prior of three: weights e^0.2, 1, 1.
    written = ReturnCmpo(context({"advantage": "sampled"})).prepare(
        prior_log_probs_BTA=torch.full((1, 1, 3), 1 / 3, dtype=torch.float64).log(),
        advantage_BT=torch.tensor([[0.4]], dtype=torch.float64),
        actions_BT=torch.tensor([[1]]),
        sigma=torch.tensor(2.0, dtype=torch.float64),
    )
    assert written["cmpo_advantage_BTA"].tolist() == [[[0.0, 0.2, 0.0]]]
    weight = e**0.2
    np.testing.assert_allclose(
        written["cmpo_policy_BTA"].numpy()[0, 0], np.array([1, weight, 1]) / (2 + weight), atol=1e-12, rtol=0
    )


def test_the_returns_advantage_tilts_the_taken_choice_of_each_factor() -> None:
    written = ReturnCmpo(context({"advantage": "sampled"}, sizes=(2, 3), factored=True)).prepare(
        prior_log_probs_BTA=distribution.log_softmax(random_logits(0, 1, 1, 5), (2, 3)),
        advantage_BT=torch.tensor([[0.4]]),
        actions_BT=torch.tensor([[[1, 2]]]),
        sigma=torch.tensor(2.0),
    )
    torch.testing.assert_close(written["cmpo_advantage_BTA"], torch.tensor([[[0.0, 0.2, 0.0, 0.0, 0.2]]]))


def test_statistics_of_the_target_by_hand() -> None:
    # Prior (0.25, 0.75), advantages (2, -0.4) over sigma: mean 0.5 - 0.3 = 0.2; variance 0.25 * 1.8^2 + 0.75 * 0.6^2 = 1.08;
    # one of two is cut at 1. q = (1.3, 0.1), sigma 0.5, v = 0.3: E q = 0.4, offset |0.4 - 0.3| / 0.5 = 0.2.
    loss = ExactCmpo(context())
    inputs = {
        "prior_log_probs_BTA": torch.tensor([[[0.25, 0.75]]], dtype=torch.float64).log(),
        "prior_q_BTA": torch.tensor([[[1.3, 0.1]]], dtype=torch.float64),
        "prior_value_BT1": torch.tensor([[0.3, 99.0]], dtype=torch.float64),
        "sigma": torch.tensor(0.5, dtype=torch.float64),
    }
    loss.sizes = (2,)
    written = loss.prepare(**inputs)
    found = {name: entry.value.item() for name, entry in loss.measure(**inputs, **written, mask_BT=EVERYWHERE).items()}
    tilted = 0.25 * e / (0.25 * e + 0.75 * e**-0.4)
    assert found == {
        "adv_mean": pytest.approx(0.2),
        "adv_std": pytest.approx(1.08**0.5),
        "advantage_clipped": 0.5,
        "total_variation": pytest.approx(tilted - 0.25),
        "baseline_offset": pytest.approx(0.2),
        "sigma": 0.5,
    }


def test_a_spread_over_states_alone_is_no_spread_within_them() -> None:
    loss = ReturnCmpo(context({"advantage": "sampled"}))
    found = loss.measure(
        prior_log_probs_BTA=torch.zeros(1, 2, 3).log_softmax(-1),
        cmpo_policy_BTA=torch.full((1, 2, 3), 1 / 3),
        cmpo_advantage_BTA=torch.tensor([[[5.0] * 3, [-5.0] * 3]]),
        sigma=torch.tensor(1.0),
        mask_BT=torch.ones(1, 2, dtype=torch.bool),
    )
    assert found["adv_std"].value.abs().max() < 1e-3
    assert found["adv_mean"].value.tolist() == [[pytest.approx(5.0), pytest.approx(-5.0)]]
    assert "baseline_offset" not in found


def sampled_inputs(*, sizes: tuple[int, ...] = (3,), count: int = 6, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    log_probs = distribution.log_softmax(random_logits(seed, 2, 3, sum(sizes)).float(), sizes)
    drawn = torch.stack([torch.randint(n, (2, 3, count), generator=generator) for n in sizes], -1)
    return {
        "prior_log_probs_BTA": log_probs,
        "prior_actions_BTN": distribution.action_columns(drawn, sizes, factored=True),
        "prior_sampled_q_BTN": random_logits(seed + 1, 2, 3, count).float(),
        "prior_value_BT1": random_logits(seed + 2, 2, 4).float(),
        "sigma": torch.tensor(0.7),
    }


def prepared(loss: SampledCmpo, inputs: dict[str, Tensor]) -> SampledCmpoWrites:
    return loss.prepare(**{name: tensor for name, tensor in inputs.items() if name != "prior_log_probs_BTA"})


def test_leave_one_out_weights_of_two_draws_by_hand() -> None:
    # Advantages 1 and 0: e and 1. z_0 = (1 + 1) / 2 = 1, z_1 = (1 + e) / 2.
    weights = leave_one_out_weights(torch.tensor([[[1.0, 0.0]]], dtype=torch.float64), 1.0)
    np.testing.assert_allclose(weights.numpy()[0, 0], [e, 2 / (1 + e)], atol=1e-12)


@pytest.mark.parametrize("clip", [0.5, 2.0])
def test_leave_one_out_weights_are_the_papers(clip: float) -> None:
    advantage = 2 * random_logits(0, 2, 3, 7)
    expected = oracles.leave_one_out(advantage.numpy(), clip)
    np.testing.assert_allclose(leave_one_out_weights(advantage, clip).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("sizes", [(3,), (2, 3)])
@pytest.mark.parametrize("baseline", ["prior_value", "prior_expected_q"])
def test_the_drawn_actions_weights_make_up_a_policy(sizes: tuple[int, ...], baseline: str) -> None:
    inputs = sampled_inputs(sizes=sizes)
    loss = SampledCmpo(context({"estimator": "sampled", "baseline": baseline}, sizes=sizes, factored=len(sizes) > 1))
    written = prepared(loss, inputs)
    q, actions = inputs["prior_sampled_q_BTN"].numpy(), inputs["prior_actions_BTN"].numpy()
    values = inputs["prior_value_BT1"].numpy()[:, :-1] if baseline == "prior_value" else q.mean(-1)
    weights = oracles.leave_one_out((q - values[..., None]) / 0.7, 1.0)
    expected = np.zeros((2, 3, sum(sizes)))
    for b, t, i in np.ndindex(weights.shape):
        expected[b, t, actions[b, t, i]] += weights[b, t, i] / weights[b, t].sum()
    np.testing.assert_allclose(written["cmpo_weights_BTN"].numpy(), weights, atol=1e-5)
    np.testing.assert_allclose(written["cmpo_policy_BTA"].numpy(), expected, atol=1e-6)


def test_the_sampled_loss_and_its_gradient_are_equation_12s() -> None:
    # d/dlogits of -1/N sum_i w_i log pi(a_i) = -1/N sum_i w_i (onehot(a_i) - pi).
    inputs = sampled_inputs()
    loss = SampledCmpo(context({"estimator": "sampled", "kl_coef": 0.3}))
    written = prepared(loss, inputs)
    logits = random_logits(9, 2, 3, 3).float().requires_grad_()
    terms = loss.compute(
        logits_BTA=logits,
        prior_log_probs_BTA=inputs["prior_log_probs_BTA"],
        prior_actions_BTN=inputs["prior_actions_BTN"],
        cmpo_weights_BTN=written["cmpo_weights_BTN"],
        cmpo_policy_BTA=written["cmpo_policy_BTA"],
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
    torch.testing.assert_close(terms["target_entropy"].value, -torch.special.xlogy(target, target).sum(-1))
    assert cast("Term", terms["kl"]).coef == 0.3


def test_many_draws_come_to_the_exact_target_and_kl() -> None:
    # 40,000 draws of an even prior of three: standard errors below 0.004.
    count = 40_000
    q = torch.tensor([0.9, -0.4, 0.1])
    drawn = torch.randint(3, (1, 1, count, 1), generator=torch.Generator().manual_seed(0))
    prior = torch.zeros(1, 1, 3).log_softmax(-1)
    loss = SampledCmpo(context({"estimator": "sampled"}))
    written = loss.prepare(
        prior_actions_BTN=drawn,
        prior_sampled_q_BTN=q[drawn[..., 0]],
        prior_value_BT1=torch.zeros(1, 2),
        sigma=torch.tensor(1.0),
    )
    exact = clipped_mpo_policy(prior, q.view(1, 1, 3))
    torch.testing.assert_close(written["cmpo_policy_BTA"], exact, atol=0.01, rtol=0)
    logits = torch.tensor([[[0.5, 0.1, -0.7]]])
    terms = loss.compute(
        logits_BTA=logits,
        prior_log_probs_BTA=prior,
        prior_actions_BTN=drawn,
        cmpo_weights_BTN=written["cmpo_weights_BTN"],
        cmpo_policy_BTA=written["cmpo_policy_BTA"],
        mask_BT=EVERYWHERE,
    )
    expected, _ = kl_divergence(exact, logits.log_softmax(-1))
    torch.testing.assert_close(terms["kl"].value, expected, atol=0.01, rtol=0)


def test_statistics_of_drawn_advantages_by_hand() -> None:
    # Advantages 2, 0, -0.5, 0.5: mean 0.5, variance (2.25 + 0.25 + 1 + 0) / 4, one of four is cut. Mean q 0.5, v 0.3.
    found = SampledCmpo(context({"estimator": "sampled"})).measure(
        prior_value_BT1=torch.tensor([[0.3, 9.0]]),
        prior_sampled_q_BTN=torch.tensor([[[1.1, 0.4, 0.1, 0.4]]]),
        cmpo_sampled_advantage_BTN=torch.tensor([[[2.0, 0.0, -0.5, 0.5]]]),
        sigma=torch.tensor(0.5),
        mask_BT=EVERYWHERE,
    )
    expected = {"adv_mean": 0.5, "adv_std": 0.875**0.5, "advantage_clipped": 0.25, "baseline_offset": 0.4, "sigma": 0.5}
    assert {name: entry.value.item() for name, entry in found.items()} == {k: pytest.approx(v) for k, v in expected.items()}


def test_no_gradient_flows_into_the_target() -> None:
    prior, advantage = random_logits(0, 1, 1, 3).requires_grad_(), random_logits(1, 1, 1, 3).requires_grad_()
    assert not clipped_mpo_policy(prior, advantage).requires_grad


@pytest.mark.parametrize(
    ("changes", "actions", "kind"),
    [
        ({}, 32, ExactCmpo),
        ({}, 33, SampledCmpo),
        ({"losses.cmpo.estimator": "exact"}, 157, ExactCmpo),
        ({"losses.cmpo.estimator": "sampled"}, 3, SampledCmpo),
        ({"losses.cmpo.advantage": "sampled"}, 3, ReturnCmpo),
        ({"losses.dynamics.enabled": False}, 3, ReturnCmpo),
        ({"losses.dynamics.reward_pred_coef": 0}, 3, ReturnCmpo),
        ({"losses.dynamics.returns_pred_coef": 0}, 3, ReturnCmpo),
    ],
)
def test_the_settings_choose_the_class(changes: dict[str, Any], actions: int, kind: type) -> None:
    question = Question(make_trainer("full", changes), make_spec().settings, ActionSpace((actions,)))
    choice = cmpo.choose(question)
    assert choice is not None
    assert choice.loss is kind
    heuristic = any("a heuristic of oatmill's, not the paper's" in note for note in choice.notes)
    assert heuristic == (kind is ReturnCmpo)
    if "losses.cmpo.advantage" not in changes:
        assert choice.auto["trainer.losses.cmpo.advantage"] == ("sampled" if kind is ReturnCmpo else "model")


@pytest.mark.parametrize(
    "changes",
    [{"losses.dynamics.enabled": False}, {"losses.dynamics.reward_pred_coef": 0}, {"losses.dynamics.returns_pred_coef": 0}],
)
def test_model_advantages_without_a_trained_model_are_refused(changes: dict[str, Any]) -> None:
    trainer = make_trainer("full", {"losses.cmpo.advantage": "model"} | changes)
    with pytest.raises(SettingsError, match=r"cmpo\.advantage=model needs trainer\.losses\.dynamics\.enabled=true"):
        cmpo.choose(Question(trainer, make_spec().settings, ActionSpace((3,))))
