"""CMPO: the target and the KL against loops and by hand, its plug-ins, and what must not be read or moved."""

from __future__ import annotations

import math
from math import e, log
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from agent import distribution
from learner.loss import Question, Term
from learner.losses import cmpo
from learner.losses.cmpo import (
    CmpoWrites,
    ExactCmpo,
    ReturnCmpo,
)
from learner.losses.cmpo_sampled import SampledCmpo, agreement
from learner.losses.policy_improvement import clipped_mpo_policy, entropy, kl_divergence
from oatmill.errors import SettingsError
from protocol.data.spaces import ActionSpace
from tests.learner import oracles
from tests.learner.worlds import cmpo_context, make_spec, make_trainer, random_normal

EVERYWHERE = torch.ones(1, 1, dtype=torch.bool)


def test_an_even_prior_with_large_advantages_is_tilted_by_the_clip_alone() -> None:
    # By hand: weights 0.5 * e^1 and 0.5 * e^-1 after the cut, so p = e / (e + 1/e).
    target = clipped_mpo_policy(torch.zeros(1, 1, 2, dtype=torch.float64), torch.tensor([[[50.0, -50.0]]]))
    assert target[0, 0, 0].item() == pytest.approx(e / (e + 1 / e), abs=1e-12)


@pytest.mark.parametrize("clip", [0.3, 1.0, 5.0])
def test_the_target_is_the_papers(clip: float) -> None:
    logits, advantage = random_normal(0, 3, 4, 5), 2 * random_normal(1, 3, 4, 5)
    expected = oracles.cmpo_target(oracles.softmax(logits.numpy()), advantage.numpy(), clip)
    np.testing.assert_allclose(clipped_mpo_policy(logits, advantage, clip=clip).numpy(), expected, atol=1e-14)


def test_each_factor_is_tilted_and_normalised_by_itself() -> None:
    logits, advantage = random_normal(0, 2, 3, 5), random_normal(1, 2, 3, 5)
    target = clipped_mpo_policy(logits, advantage, (2, 3))
    parts = [clipped_mpo_policy(logits[..., part], advantage[..., part]) for part in (slice(0, 2), slice(2, 5))]
    torch.testing.assert_close(target, torch.cat(parts, -1))


def test_an_advantage_without_an_action_axis_raises_an_error() -> None:
    with pytest.raises(ValueError, match=r"expected an advantage for every action, \(2, 3, 4\), got \(2, 3\)"):
        clipped_mpo_policy(torch.zeros(2, 3, 4), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="expected an advantage for every action"):
        clipped_mpo_policy(torch.zeros(2, 3, 4), torch.zeros(2, 3, 1))


@pytest.mark.parametrize("clip", [0.0, -1.0, float("nan"), float("inf")])
def test_a_clip_that_is_not_a_finite_number_above_0_raises_an_error(clip: float) -> None:
    with pytest.raises(ValueError, match="clip must be a finite number above 0"):
        clipped_mpo_policy(torch.zeros(1, 1, 2), torch.zeros(1, 1, 2), clip=clip)


def test_the_kl_is_the_definitions_and_a_target_of_0_adds_nothing() -> None:
    rng = np.random.default_rng(0)
    target, policy = oracles.softmax(rng.normal(size=(3, 4))), oracles.softmax(rng.normal(size=(3, 4)))
    target[0] = [0.5, 0.5, 0, 0]
    entropies = entropy(torch.from_numpy(target))
    divergence = kl_divergence(torch.from_numpy(target), torch.from_numpy(policy).log(), entropies)
    np.testing.assert_allclose(divergence.numpy(), oracles.kl(target, policy), atol=1e-14)
    assert entropies[0].item() == pytest.approx(log(2))


def test_the_gradient_of_the_kl_is_the_policy_minus_the_target() -> None:
    loss = ExactCmpo(cmpo_context({"kl_coef": 0.3}))
    logits = random_normal(0, 2, 3, 3).float().requires_grad_()
    target = random_normal(1, 2, 3, 3).float().softmax(-1).requires_grad_()
    mask = torch.ones(2, 3, dtype=torch.bool)
    term = loss.compute(logits_BTA=logits, cmpo_policy_BTA=target, cmpo_entropy_BT=entropy(target), mask_BT=mask)["kl"]
    assert cast("Term", term).coef == 0.3
    (gradient,) = torch.autograd.grad(term.value.sum(), logits)
    torch.testing.assert_close(gradient, logits.detach().softmax(-1) - target.detach())


def test_the_cross_entropy_and_the_targets_entropy_differ_by_the_kl() -> None:
    target = random_normal(1, 2, 3, 3).softmax(-1)
    terms = ExactCmpo(cmpo_context()).compute(
        logits_BTA=random_normal(0, 2, 3, 3).requires_grad_(),
        cmpo_policy_BTA=target,
        cmpo_entropy_BT=entropy(target),
        mask_BT=torch.ones(2, 3).bool(),
    )
    torch.testing.assert_close(terms["kl"].value.detach(), terms["cross_entropy"].value - terms["target_entropy"].value)
    assert terms["kl"].value.requires_grad
    assert not terms["cross_entropy"].value.requires_grad


def exact_inputs(*, sizes: tuple[int, ...] = (3,), seed: int = 0) -> dict[str, Tensor]:
    logits = random_normal(seed, 2, 4, sum(sizes))
    return {
        "prior_log_probs_BTA": distribution.log_softmax(logits, sizes),
        "prior_q_BTA": random_normal(seed + 1, 2, 4, sum(sizes)),
        "prior_value_BT1": random_normal(seed + 2, 2, 5),
        "sigma": torch.tensor(0.7, dtype=torch.float64),
    }


@pytest.mark.parametrize(("baseline", "temperature"), [("prior_value", 1.0), ("prior_expected_q", 1.0), ("prior_value", 0.5)])
def test_the_exact_target_is_made_of_q_minus_the_baseline_over_sigma(baseline: str, temperature: float) -> None:
    inputs = exact_inputs()
    changes = {"baseline": baseline, "advantage_clip": 0.8, "temperature": temperature}
    written = ExactCmpo(cmpo_context(changes)).prepare(**inputs)
    prior, q = inputs["prior_log_probs_BTA"].exp().numpy(), inputs["prior_q_BTA"].numpy()
    values = inputs["prior_value_BT1"].numpy()[:, :-1] if baseline == "prior_value" else (prior * q).sum(-1)
    advantage = (q - values[..., None]) / (0.7 * temperature)
    np.testing.assert_allclose(written["cmpo_advantage_BTA"].numpy(), advantage, atol=1e-12)
    np.testing.assert_allclose(written["cmpo_policy_BTA"].numpy(), oracles.cmpo_target(prior, advantage, 0.8), atol=1e-12)


def test_with_several_factors_each_has_its_own_expectation_as_baseline() -> None:
    inputs = exact_inputs(sizes=(2, 3))
    written = ExactCmpo(cmpo_context(sizes=(2, 3), factored=True)).prepare(**inputs)
    prior, q = inputs["prior_log_probs_BTA"].exp().numpy(), inputs["prior_q_BTA"].numpy()
    for part in (slice(0, 2), slice(2, 5)):
        expected = (q[..., part] - (prior[..., part] * q[..., part]).sum(-1, keepdims=True)) / 0.7
        np.testing.assert_allclose(written["cmpo_advantage_BTA"][..., part].numpy(), expected, atol=1e-12)
        target = oracles.cmpo_target(prior[..., part], expected, 1.0)
        np.testing.assert_allclose(written["cmpo_policy_BTA"][..., part].numpy(), target, atol=1e-12)


@pytest.mark.parametrize(("temperature", "tilt"), [(1.0, 0.2), (0.5, 0.4)])
def test_the_returns_advantage_tilts_the_taken_action_alone(temperature: float, tilt: float) -> None:
    # Advantage 0.4 over sigma 2 is 0.2, and 0.4 at a temperature of 0.5; an even prior of three: weights e^0.2, 1, 1.
    written = ReturnCmpo(cmpo_context({"advantage": "sampled", "temperature": temperature})).prepare(
        prior_log_probs_BTA=torch.full((1, 1, 3), 1 / 3, dtype=torch.float64).log(),
        advantage_BT=torch.tensor([[0.4]], dtype=torch.float64),
        actions_BT=torch.tensor([[1]]),
        sigma=torch.tensor(2.0, dtype=torch.float64),
    )
    assert written["cmpo_advantage_BTA"].tolist() == [[[0.0, tilt, 0.0]]]
    weight = e**tilt
    np.testing.assert_allclose(
        written["cmpo_policy_BTA"].numpy()[0, 0], np.array([1, weight, 1]) / (2 + weight), atol=1e-12, rtol=0
    )


def test_the_returns_advantage_tilts_the_taken_choice_of_each_factor() -> None:
    written = ReturnCmpo(cmpo_context({"advantage": "sampled"}, sizes=(2, 3), factored=True)).prepare(
        prior_log_probs_BTA=distribution.log_softmax(random_normal(0, 1, 1, 5), (2, 3)),
        advantage_BT=torch.tensor([[0.4]]),
        actions_BT=torch.tensor([[[1, 2]]]),
        sigma=torch.tensor(2.0),
    )
    torch.testing.assert_close(written["cmpo_advantage_BTA"], torch.tensor([[[0.0, 0.2, 0.0, 0.0, 0.2]]]))


def measured(written: CmpoWrites) -> dict[str, Tensor]:
    return {"cmpo_policy_BTA": written["cmpo_policy_BTA"], "cmpo_advantage_BTA": written["cmpo_advantage_BTA"]}


def test_statistics_of_the_target_by_hand() -> None:
    # Prior (0.25, 0.75), advantages (2, -0.4) over sigma: mean 0.5 - 0.3 = 0.2; variance 0.25 * 1.8^2 + 0.75 * 0.6^2 = 1.08;
    # one of two is cut at 1. q = (1.3, 0.1), sigma 0.5, v = 0.3: E q = 0.4, offset |0.4 - 0.3| / 0.5 = 0.2.
    loss = ExactCmpo(cmpo_context())
    inputs = {
        "prior_log_probs_BTA": torch.tensor([[[0.25, 0.75]]], dtype=torch.float64).log(),
        "prior_q_BTA": torch.tensor([[[1.3, 0.1]]], dtype=torch.float64),
        "prior_value_BT1": torch.tensor([[0.3, 99.0]], dtype=torch.float64),
        "sigma": torch.tensor(0.5, dtype=torch.float64),
    }
    loss.sizes = (2,)
    written = loss.prepare(**inputs)
    followed = {"advantage_BT": torch.ones(1, 1), "actions_BT": torch.zeros(1, 1, dtype=torch.long)}
    statistics = loss.measure(**inputs, **measured(written), **followed, mask_BT=EVERYWHERE, fresh_B=EVERYWHERE[:, 0])
    assert statistics.pop("advantage_agreement").value.isnan()  # one step goes together with nothing
    found = {name: entry.value.item() for name, entry in statistics.items()}
    tilted = 0.25 * e / (0.25 * e + 0.75 * e**-0.4)
    assert found == {
        "adv_mean": pytest.approx(0.2),
        "adv_std": pytest.approx(1.08**0.5),
        "advantage_clipped": 0.5,
        "total_variation": pytest.approx(tilted - 0.25),
        "baseline_offset": pytest.approx(0.2),
        "sigma": 0.5,
    }


def test_statistics_of_a_factored_target_are_over_its_factors() -> None:
    # Means over factors, but the largest total variation of them. One of five advantages is cut; one at the clip is not.
    sizes = (2, 3)
    loss = ExactCmpo(cmpo_context(sizes=sizes, factored=True))
    inputs = exact_inputs(sizes=sizes)
    written = loss.prepare(**inputs)
    written["cmpo_advantage_BTA"][0, 0] = torch.tensor([-3.0, 1.0, -1.0, 0.5, 0.2])
    followed = {
        "advantage_BT": random_normal(7, 2, 4),
        "actions_BT": torch.randint(2, (2, 4, 2), generator=torch.Generator().manual_seed(0)),
        "fresh_B": torch.tensor([False, True]),
    }
    found = loss.measure(**inputs, **measured(written), **followed, mask_BT=torch.ones(2, 4, dtype=torch.bool))
    agreement = found.pop("advantage_agreement")
    assert agreement.mask.tolist() == [[False] * 4, [True] * 4]
    prior, q = inputs["prior_log_probs_BTA"].exp().numpy(), inputs["prior_q_BTA"].numpy()
    policy, advantage = written["cmpo_policy_BTA"].numpy(), written["cmpo_advantage_BTA"].numpy()
    for b, t in np.ndindex(2, 4):
        means, deviations, variations, expected_q = [], [], [], []
        for part in (slice(0, 2), slice(2, 5)):
            p, a = prior[b, t, part], advantage[b, t, part]
            means.append((p * a).sum())
            deviations.append(np.sqrt((p * (a - means[-1]) ** 2).sum()))
            variations.append(0.5 * np.abs(policy[b, t, part] - p).sum())
            expected_q.append((p * q[b, t, part]).sum())
        expected = {
            "adv_mean": np.mean(means),
            "adv_std": np.mean(deviations),
            "advantage_clipped": (np.abs(advantage[b, t]) > 1).mean(),
            "total_variation": max(variations),
            "baseline_offset": abs(np.mean(expected_q) - inputs["prior_value_BT1"][b, t].item()) / 0.7,
            "sigma": 0.7,
        }
        assert {name: entry.value[b, t].item() for name, entry in found.items()} == pytest.approx(expected)
    assert found["advantage_clipped"].value[0, 0].item() == pytest.approx(0.2)
    of_taken = np.zeros((2, 4))
    for part, chosen in zip((slice(0, 2), slice(2, 5)), followed["actions_BT"].numpy().transpose(2, 0, 1), strict=True):
        p, own = prior[..., part], q[..., part]
        of_taken += np.take_along_axis(own, chosen[..., None], -1)[..., 0] - (p * own).sum(-1)
    # The first row is replayed: the model remembers its return.
    expected_agreement = np.corrcoef(of_taken[1], followed["advantage_BT"].numpy()[1])[0, 1]
    np.testing.assert_allclose(agreement.value.numpy(), expected_agreement, atol=1e-6)


def test_agreement_is_the_correlation_of_valid_steps_alone() -> None:
    # By hand: deviations (-1, 0, 1) and (-1, 2, -1) / scale: 0; then (-1, 0, 1) with (-2, 1, 1): 3 / sqrt(2 * 6).
    mask = torch.tensor([[True, True, True, False]])
    model = torch.tensor([[1.0, 2.0, 3.0, math.nan]])
    for returns, expected in (
        ([0.0, 3.0, 0.0, 9.0], 0.0),
        ([0.0, 3.0, 3.0, -9.0], 3 / 12**0.5),
        ([-2.0, -4.0, -6.0, 0.0], -1.0),
    ):
        found = agreement(model, torch.tensor([returns]), mask)
        assert (found.shape, found.dtype) == (mask.shape, torch.float32)
        assert found[0].tolist() == pytest.approx([expected] * 4, abs=1e-6)


def test_agreement_of_what_never_differs_is_no_number() -> None:
    # In float32 the mean of a thousand times 0.7 is not 0.7, and rounding would go together with something.
    flat, differing = torch.full((1, 1000), 0.7), random_normal(0, 1, 1000).float()
    everywhere = torch.ones(1, 1000, dtype=torch.bool)
    assert agreement(flat, differing, everywhere).isnan().all()
    assert agreement(differing, flat, everywhere).isnan().all()


def test_a_spread_over_states_alone_is_no_spread_within_them() -> None:
    loss = ReturnCmpo(cmpo_context({"advantage": "sampled"}))
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


def test_no_gradient_flows_into_the_target() -> None:
    prior, advantage = random_normal(0, 1, 1, 3).requires_grad_(), random_normal(1, 1, 1, 3).requires_grad_()
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
    heuristic = any("a heuristic of oatmill, not of the paper" in note for note in choice.notes)
    assert heuristic == (kind is ReturnCmpo)
    if "losses.cmpo.advantage" not in changes:
        assert choice.auto["trainer.losses.cmpo.advantage"] == ("sampled" if kind is ReturnCmpo else "model")


@pytest.mark.parametrize(
    "changes",
    [{"losses.dynamics.enabled": False}, {"losses.dynamics.reward_pred_coef": 0}, {"losses.dynamics.returns_pred_coef": 0}],
)
def test_model_advantages_without_a_trained_model_raise_an_error(changes: dict[str, Any]) -> None:
    trainer = make_trainer("full", {"losses.cmpo.advantage": "model"} | changes)
    with pytest.raises(SettingsError, match=r"cmpo\.advantage=model needs trainer\.losses\.dynamics\.enabled=true"):
        cmpo.choose(Question(trainer, make_spec().settings, ActionSpace((3,))))
