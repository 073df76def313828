"""The model's policies: targets a step ahead, the cross-entropy and its gradient, and what must not be read or moved."""

from __future__ import annotations

from math import log
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from learner.loss import Question, Term
from learner.losses import muesli_model
from learner.losses.muesli_model import MuesliModel, PriorMuesliModel, policy_targets, policy_terms
from oatmill.errors import SettingsError
from protocol.data.spaces import ActionSpace
from tests.learner import oracles
from tests.learner.worlds import make_context, make_spec, make_trainer


def question(changes: dict[str, Any], arm: str = "full") -> Question:
    return Question(make_trainer(arm, changes), make_spec().settings, ActionSpace((3,)))


@pytest.mark.parametrize("seed", range(5))
def test_the_target_of_k_steps_is_the_policy_k_steps_on(seed: int) -> None:
    rng = np.random.default_rng(seed)
    policy = oracles.softmax(rng.normal(size=(3, 7, 4)))
    terminated, truncated = rng.random((3, 7)) < 0.15, rng.random((3, 7)) < 0.1
    mask = rng.random((3, 7)) < 0.95
    ends = {"terminated_BT": terminated, "truncated_BT": truncated, "mask_BT": mask}
    flags = {name: torch.from_numpy(array) for name, array in ends.items()}
    entropy = rng.random((3, 7))
    written = policy_targets(torch.from_numpy(policy), torch.from_numpy(entropy), **flags, horizon=3)
    truth = oracles.unroll_truth(terminated, truncated, mask, 3)["policy"]
    np.testing.assert_array_equal(written["muesli_mask_BTK"].numpy(), truth)
    for b, t, k in np.ndindex(3, 7, 3):
        expected = policy[b, t + k + 1] if truth[b, t, k] else np.zeros(4)
        np.testing.assert_array_equal(written["muesli_target_BTKA"][b, t, k].numpy(), expected)
        assert written["muesli_entropy_BTK"][b, t, k].item() == (entropy[b, t + k + 1] if truth[b, t, k] else 0)


def test_the_loss_and_its_gradient_by_hand() -> None:
    # Target (0.5, 0.5, 0), even model: cross-entropy ln 3, entropy ln 2, KL ln 1.5; d/dlogits = softmax - target.
    logits, mask = torch.zeros(1, 1, 1, 3, requires_grad=True), torch.ones(1, 1, 1, dtype=torch.bool)
    target, entropy = torch.tensor([[[[0.5, 0.5, 0.0]]]]), torch.tensor([[[log(2)]]])
    terms = policy_terms(logits, target, entropy, mask, sizes=(3,), coef=0.002)
    assert terms["cross_entropy"].value.item() == pytest.approx(log(3))
    assert cast("Term", terms["cross_entropy"]).coef == 0.002
    assert terms["target_entropy"].value.item() == pytest.approx(log(2))
    assert terms["kl"].value.item() == terms["kl_1"].value.item() == pytest.approx(log(1.5))
    (gradient,) = torch.autograd.grad(terms["cross_entropy"].value.sum(), logits)
    torch.testing.assert_close(gradient, torch.tensor([[[[1 / 3 - 0.5, 1 / 3 - 0.5, 1 / 3]]]]))


def test_the_cross_entropy_is_the_definitions_for_each_factor() -> None:
    rng = np.random.default_rng(0)
    logits, sizes = rng.normal(size=(2, 3, 2, 5)), (2, 3)
    target = np.concatenate([oracles.softmax(rng.normal(size=(2, 3, 2, n))) for n in sizes], -1)
    log_policy = np.concatenate([np.log(oracles.softmax(part)) for part in np.split(logits, [2], -1)], -1)
    mask = torch.ones(2, 3, 2, dtype=torch.bool)
    entropy = torch.from_numpy(-(target * np.log(target)).sum(-1))
    terms = policy_terms(torch.from_numpy(logits), torch.from_numpy(target), entropy, mask, sizes=sizes, coef=1.0)
    np.testing.assert_allclose(terms["cross_entropy"].value.numpy(), -(target * log_policy).sum(-1), atol=1e-6)
    for k in range(2):
        divergence = sum(
            oracles.kl(t, np.exp(p))
            for t, p in zip(np.split(target[:, :, k], [2], -1), np.split(log_policy[:, :, k], [2], -1), strict=True)
        )
        np.testing.assert_allclose(terms[f"kl_{k + 1}"].value.numpy(), divergence, atol=1e-6)
        assert torch.equal(terms[f"kl_{k + 1}"].mask, mask[..., k])


@pytest.mark.parametrize("poison", [float("nan"), 1e9])
def test_a_policy_behind_an_end_reaches_no_target(poison: float) -> None:
    policy = torch.full((1, 5, 3), 1 / 3)
    terminated = torch.tensor([[False, True, False, False, False]])
    truncated = torch.zeros_like(terminated)
    ends = {"terminated_BT": terminated, "truncated_BT": truncated, "mask_BT": torch.ones_like(terminated)}
    entropy = torch.full((1, 5), log(3))
    clean = policy_targets(policy, entropy, **ends, horizon=3)
    policy[:, 2:] = poison
    entropy[:, 2:] = poison
    poisoned = policy_targets(policy, entropy, **ends, horizon=3)
    for name in ("muesli_target_BTKA", "muesli_entropy_BTK"):
        assert torch.equal(clean[name][:, :2], poisoned[name][:, :2])


def test_no_gradient_flows_into_the_target() -> None:
    # As the objective runs it: without a graph, whatever the target was made of.
    policy, flag = torch.tensor([[[0.5, 0.5], [0.1, 0.9]]], requires_grad=True), torch.zeros(1, 2, dtype=torch.bool)
    with torch.no_grad():
        written = policy_targets(policy, policy[..., 0], terminated_BT=flag, truncated_BT=flag, mask_BT=~flag, horizon=1)
    logits = torch.zeros(1, 2, 1, 2, requires_grad=True)
    given = (written["muesli_target_BTKA"], written["muesli_entropy_BTK"], written["muesli_mask_BTK"])
    terms = policy_terms(logits, *given, sizes=(2,), coef=1.0)
    torch.autograd.backward(terms["cross_entropy"].value.sum())
    assert policy.grad is None
    assert logits.grad is not None


def test_each_class_reads_its_own_target() -> None:
    context = make_context(make_trainer("full", {"losses.muesli_model.policy_horizon": 2}))
    flags = torch.zeros(1, 4, dtype=torch.bool)
    policy = torch.rand(1, 4, 3, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    ends: dict[str, Tensor] = {"terminated_BT": flags, "truncated_BT": flags, "mask_BT": ~flags}
    entropy = -(policy.exp() * policy).sum(-1)
    from_cmpo = MuesliModel(context).prepare(cmpo_policy_BTA=policy.exp(), cmpo_entropy_BT=entropy, **ends)
    from_prior = PriorMuesliModel(context).prepare(prior_log_probs_BTA=policy, **ends)
    assert from_cmpo["muesli_target_BTKA"].shape == (1, 4, 2, 3)
    torch.testing.assert_close(from_cmpo["muesli_target_BTKA"], from_prior["muesli_target_BTKA"])
    torch.testing.assert_close(from_cmpo["muesli_entropy_BTK"], from_prior["muesli_entropy_BTK"])
    torch.testing.assert_close(from_cmpo["muesli_entropy_BTK"][0, 0, 1], entropy[0, 2])
    torch.testing.assert_close(from_cmpo["muesli_target_BTKA"][0, 0, 1], policy.exp()[0, 2])


@pytest.mark.parametrize(
    ("arm", "asked", "kind", "auto"),
    [
        ("full", "auto", MuesliModel, "cmpo"),
        ("full", "prior", PriorMuesliModel, None),
        ("full", "cmpo", MuesliModel, None),
        ("muesli", "auto", PriorMuesliModel, "prior"),
        ("muesli", "prior", PriorMuesliModel, None),
    ],
)
def test_the_settings_choose_the_class(arm: str, asked: str, kind: type, auto: str | None) -> None:
    choice = muesli_model.choose(question({"losses.muesli_model.policy_target": asked}, arm))
    assert choice is not None
    assert choice.loss is kind
    assert choice.auto.get("trainer.losses.muesli_model.policy_target") == auto
    assert any("without dynamics" in note for note in choice.notes) == (arm == "muesli")


def test_cmpos_policy_cannot_be_the_target_while_cmpo_is_off() -> None:
    with pytest.raises(SettingsError, match=r"policy_target=cmpo needs trainer\.losses\.cmpo\.enabled=true"):
        muesli_model.choose(question({"losses.muesli_model.policy_target": "cmpo"}, "muesli"))


def test_the_horizon_may_be_as_long_as_the_unroll_and_no_longer() -> None:
    muesli_model.choose(question({"losses.dynamics.unroll_steps": 4, "losses.muesli_model.policy_horizon": 4}))
    with pytest.raises(SettingsError, match=r"policy_horizon must be at most .*unroll_steps=4, got 5"):
        muesli_model.choose(question({"losses.dynamics.unroll_steps": 4, "losses.muesli_model.policy_horizon": 5}))
    assert muesli_model.choose(question({"losses.muesli_model.policy_horizon": 20}, "muesli")) is not None
