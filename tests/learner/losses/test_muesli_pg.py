"""The paper's policy gradient: its definition, numbers by hand, an unbiased gradient, and what must not be read or moved."""

from __future__ import annotations

from math import log
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from agent import distribution
from learner.loss import Statistic, Term, Terms
from learner.losses.muesli_pg import MuesliPg
from tests.learner import oracles
from tests.learner.worlds import inputs_of, make_batch, make_context, make_spec, make_trainer, make_updater_of

PG = {"losses.ppo_actor.enabled": False, "losses.muesli_pg.enabled": True}


def loss_of(sizes: tuple[int, ...] = (3,), *, factored: bool = False, **changes: Any) -> MuesliPg:
    trainer = make_trainer("full", PG | {f"losses.muesli_pg.{name}": value for name, value in changes.items()})
    return MuesliPg(make_context(trainer, make_spec(sizes=sizes, factored=factored)))


def terms_of(loss: MuesliPg, logits: Tensor, **given: Tensor) -> Terms:
    """Prepare and compute with every step valid, the policy at the batch's start being the one that is trained."""
    old = distribution.log_softmax(logits.detach(), loss.sizes)
    mask = given.pop("mask_BT", torch.ones(logits.shape[:2], dtype=torch.bool))
    written = loss.prepare(mask_BT=mask, old_log_probs_BTA=old, **given)
    return loss.compute(logits_BTA=logits, actions_BT=given["actions_BT"], mask_BT=mask, **written)


def policy_term(terms: Terms) -> Tensor:
    return terms["policy"].value


@pytest.mark.parametrize(("sizes", "factored"), [((4,), False), ((3, 2), True), ((2, 3, 2), True)])
@pytest.mark.parametrize("clip", [1.0, 0.6, 3.0])
def test_the_loss_is_the_definitions(sizes: tuple[int, ...], factored: bool, clip: float) -> None:
    rng, loss = np.random.default_rng(len(sizes)), loss_of(sizes, factored=factored, ratio_clip=clip)

    def rows() -> Any:
        return np.concatenate([oracles.softmax(rng.normal(size=(2, 5, size))) for size in sizes], -1)

    policy, behaviour = rows(), rows()
    q, value, returns = rng.normal(size=(2, 5, sum(sizes))), rng.normal(size=(2, 6)), rng.normal(size=(2, 5))
    actions = np.stack([rng.integers(0, size, (2, 5)) for size in sizes], -1)
    for index in np.ndindex(2, 5):
        # q of the choice taken is the same number in every factor: it is q of the whole action.
        for factor, start in enumerate(np.cumsum([0, *sizes[:-1]])):
            q[index][start + actions[index][factor]] = q[index][actions[index][0]]
    given = {
        "prior_q_BTA": q,
        "prior_value_BT1": value,
        "action_return_BT": returns,
        "behaviour_log_probs_BTA": np.log(behaviour),
    }
    tensors = {name: torch.from_numpy(array).float() for name, array in given.items()}
    taken = torch.from_numpy(actions if factored else actions[..., 0])
    logits = torch.from_numpy(np.log(policy)).float()
    terms = terms_of(loss, logits, actions_BT=taken, sigma=torch.tensor(1.7), **tensors)
    expected = oracles.beta_loo(
        policy=policy,
        behaviour=behaviour,
        actions=actions,
        q=q,
        value=value[:, :-1],
        returns=returns,
        sigma=1.7,
        clip=clip,
        sizes=sizes,
    )
    np.testing.assert_allclose(policy_term(terms).numpy(), expected, atol=2e-5)
    joint = np.array(
        [[np.prod([(policy / behaviour)[b, t][c] for c in columns(actions[b, t], sizes)]) for t in range(5)] for b in range(2)]
    )
    np.testing.assert_array_equal(terms["clip_ratio"].value.numpy(), joint > clip)


def columns(choices: Any, sizes: tuple[int, ...]) -> list[int]:
    return [int(start + choice) for start, choice in zip(np.cumsum([0, *sizes[:-1]]), choices, strict=True)]


def by_hand(**changes: Any) -> tuple[MuesliPg, Tensor, dict[str, Tensor]]:
    """One state, even policy, behaviour (0.25, 0.75), action 0, q = (2, 1), v = 1.5, G = 4, sigma = 2."""
    given = {
        "actions_BT": torch.zeros(1, 1, dtype=torch.int32),
        "behaviour_log_probs_BTA": torch.tensor([[[log(0.25), log(0.75)]]]),
        "prior_q_BTA": torch.tensor([[[2.0, 1.0]]]),
        "prior_value_BT1": torch.tensor([[1.5, 99.0]]),
        "action_return_BT": torch.tensor([[4.0]]),
        "sigma": torch.tensor(2.0),
    }
    return loss_of((2,), **changes), torch.zeros(1, 1, 2, requires_grad=True), given


@pytest.mark.parametrize(("clip", "weight", "outside"), [(1.0, 1.0, 1), (3.0, 2.0, 0)])
def test_value_and_gradient_by_hand(clip: float, weight: float, outside: int) -> None:
    # Ratio 0.5 / 0.25 = 2. Correction: weight * (4 - 2) / 2 = weight, times -log 0.5. Expected: 0.5 * 0.25 - 0.5 * 0.25 = 0.
    # d/dlogits: -weight * ((1, 0) - (0.5, 0.5)) and -pi(a) (adv(a) - 0) = -(0.125, -0.125).
    loss, logits, given = by_hand(ratio_clip=clip, pg_coef=0.7)
    terms = terms_of(loss, logits, **given)
    assert policy_term(terms).item() == pytest.approx(weight * log(2))
    assert terms["correction"].value.item() == pytest.approx(weight * log(2))
    assert cast("Term", terms["policy"]).coef == 0.7
    assert terms["clip_ratio"].value.item() == outside
    assert terms["entropy"].value.item() == pytest.approx(log(2))
    (gradient,) = torch.autograd.grad(policy_term(terms).sum(), logits)
    torch.testing.assert_close(gradient, torch.tensor([[[-0.5 * weight - 0.125, 0.5 * weight + 0.125]]]))


def test_the_entropy_bonus_is_off_by_default_and_pulls_towards_the_uniform_policy() -> None:
    loss, _, given = by_hand()
    assert cast("Term", terms_of(loss, torch.zeros(1, 1, 2), **given)["entropy"]).coef == 0
    loss, _, given = by_hand(ent_coef=0.02)
    logits = torch.tensor([[[log(0.8), log(0.2)]]], requires_grad=True)
    term = cast("Term", terms_of(loss, logits, **given)["entropy"])
    entropy = -(0.8 * log(0.8) + 0.2 * log(0.2))
    assert term.value.item() == pytest.approx(entropy)
    assert term.coef == -0.02
    (gradient,) = torch.autograd.grad(term.value.sum(), logits)
    # dH/dlogit_a = -pi(a) (log pi(a) + H).
    expected = [-0.8 * (log(0.8) + entropy), -0.2 * (log(0.2) + entropy)]
    torch.testing.assert_close(gradient, torch.tensor([[expected]]))


def test_how_far_the_policy_has_moved_is_reported_and_trains_nothing() -> None:
    # Even now; 0.8 at the batch's start and 0.25 when the action was taken: k3 = r - 1 - log r with r = 0.625 and 2.
    loss, logits, given = by_hand()
    mask = torch.ones(1, 1, dtype=torch.bool)
    old = torch.tensor([[[log(0.8), log(0.2)]]])
    written = loss.prepare(mask_BT=mask, old_log_probs_BTA=old, **given)
    terms = loss.compute(logits_BTA=logits, actions_BT=given["actions_BT"], mask_BT=mask, **written)
    assert terms["approx_kl"].value.item() == pytest.approx(0.625 - 1 - log(0.625))
    assert terms["behaviour_kl"].value.item() == pytest.approx(2 - 1 - log(2))
    statistics = [entry for entry in terms.values() if isinstance(entry, Statistic)]
    assert len(statistics) == 4
    assert not any(entry.value.requires_grad for entry in statistics)


@pytest.mark.parametrize(("sizes", "factored"), [((3,), False), ((2, 3), True)])
def test_on_policy_the_gradient_is_the_policy_gradients_however_wrong_the_model_is(
    sizes: tuple[int, ...], factored: bool
) -> None:
    # One state; the return of an action is known. The expectation over the policy's own actions, by enumeration, must be the
    # gradient of sum_a pi(a) G(a), whatever q says. With several factors q(b, others taken) is G's own: there wrong q has bias
    # only through what the others' choices are, so it is tested with q of the right factors plus a constant.
    loss = loss_of(sizes, factored=factored)
    rng = torch.Generator().manual_seed(1)
    logits = torch.randn(1, 1, sum(sizes), generator=rng, requires_grad=True)
    returns = torch.randn(sizes, generator=rng)
    wrong = torch.randn(sizes, generator=rng) if not factored else returns + 0.3
    log_probs = distribution.log_softmax(logits, sizes)
    parts = torch.split(log_probs[0, 0], list(sizes))
    joint = parts[0].exp()
    for part in parts[1:]:
        joint = joint.unsqueeze(-1) * part.exp()
    (truth,) = torch.autograd.grad(-(joint * returns).sum(), logits, retain_graph=True)
    found = torch.zeros_like(logits)
    for index in np.ndindex(sizes):
        q = torch.cat([wrong[tuple(slice(None) if i == f else c for i, c in enumerate(index))] for f in range(len(sizes))])
        given = {
            "actions_BT": torch.tensor([[list(index)]]) if factored else torch.tensor([[index[0]]]),
            "behaviour_log_probs_BTA": log_probs.detach(),
            "prior_q_BTA": q.view(1, 1, -1),
            "prior_value_BT1": torch.tensor([[0.4, 0.0]]),
            "action_return_BT": returns[index].view(1, 1),
            "sigma": torch.tensor(1.0),
        }
        (gradient,) = torch.autograd.grad(policy_term(terms_of(loss, logits, **given)).sum(), logits)
        found += joint[index].item() * gradient
    torch.testing.assert_close(found, truth, atol=1e-6, rtol=1e-5)


def test_off_policy_the_gradient_is_unbiased_where_nothing_is_cut() -> None:
    # Actions come from another policy; with the ratio uncut the expectation over it is the same gradient.
    loss = loss_of((3,), ratio_clip=1e6)
    logits = torch.tensor([[[0.3, -0.2, 0.5]]], requires_grad=True)
    behaviour, returns, wrong = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.7, 3.0, -1.0])
    (truth,) = torch.autograd.grad(-(torch.softmax(logits, -1) * returns).sum(), logits)
    found = torch.zeros_like(logits)
    for action in range(3):
        given = {
            "actions_BT": torch.tensor([[action]]),
            "behaviour_log_probs_BTA": behaviour.log().view(1, 1, 3),
            "prior_q_BTA": wrong.view(1, 1, 3),
            "prior_value_BT1": torch.zeros(1, 2),
            "action_return_BT": returns[action].view(1, 1),
            "sigma": torch.tensor(1.0),
        }
        (gradient,) = torch.autograd.grad(policy_term(terms_of(loss, logits, **given)).sum(), logits)
        found += behaviour[action] * gradient
    torch.testing.assert_close(found, truth, atol=1e-6, rtol=1e-5)


def test_the_step_is_divided_by_sigma_once() -> None:
    loss, logits, given = by_hand()
    (one,) = torch.autograd.grad(policy_term(terms_of(loss, logits, **given)).sum(), logits)
    (ten,) = torch.autograd.grad(policy_term(terms_of(loss, logits, **(given | {"sigma": torch.tensor(20.0)}))).sum(), logits)
    torch.testing.assert_close(ten, one / 10)


def test_a_ratio_at_the_clip_is_not_cut() -> None:
    loss, logits, given = by_hand()
    even = given | {"behaviour_log_probs_BTA": torch.full((1, 1, 2), log(0.5))}
    assert terms_of(loss, logits, **even)["clip_ratio"].value.item() == 0


def test_what_multiplies_the_policy_is_0_where_a_step_does_not_count() -> None:
    loss, logits, given = by_hand()
    mask = torch.zeros(1, 1, dtype=torch.bool)
    written = loss.prepare(mask_BT=mask, old_log_probs_BTA=torch.log_softmax(logits, -1), **given)
    assert written["pg_correction_BT"].item() == 0
    assert written["pg_advantage_BTA"].tolist() == [[[0, 0]]]


@pytest.mark.parametrize("poison", [float("nan"), 1e9])
def test_steps_that_do_not_count_are_not_read(poison: float) -> None:
    loss, logits, given = by_hand()
    clean = terms_of(loss, logits, **given)
    mask = torch.tensor([[True, False]])
    twice = {
        name: torch.cat([value, torch.full_like(value, poison)], 1)
        for name, value in given.items()
        if value.is_floating_point() and value.ndim > 1
    }
    twice["prior_value_BT1"] = torch.tensor([[1.5, poison, poison]])
    twice["behaviour_log_probs_BTA"] = given["behaviour_log_probs_BTA"].repeat(1, 2, 1)
    rest = {"actions_BT": given["actions_BT"].repeat(1, 2), "sigma": given["sigma"], "mask_BT": mask}
    both = torch.zeros(1, 2, 2, requires_grad=True)
    terms = terms_of(loss, both, **twice, **rest)
    kept = torch.where(terms["policy"].mask, policy_term(terms), 0.0)
    assert kept[0].tolist() == [pytest.approx(policy_term(clean).item()), 0.0]
    (gradient,) = torch.autograd.grad(kept.sum(), both)
    assert torch.isfinite(gradient).all()
    assert gradient[0, 1].tolist() == [0, 0]


def test_nothing_flows_into_what_was_prepared() -> None:
    loss, logits, given = by_hand()
    live = {name: value.clone().requires_grad_() if value.is_floating_point() else value for name, value in given.items()}
    with torch.no_grad():
        mask = torch.ones(1, 1, dtype=torch.bool)
        written = loss.prepare(mask_BT=mask, old_log_probs_BTA=torch.log_softmax(logits, -1), **live)
    assert not any(cast("Tensor", value).requires_grad for value in written.values())
    terms = loss.compute(logits_BTA=logits, actions_BT=live["actions_BT"], mask_BT=mask, **written)
    assert torch.autograd.grad(policy_term(terms).sum(), [logits])[0].abs().sum() > 0


@pytest.mark.parametrize("returns", ["gae_vtrace", "retrace"])
def test_the_return_of_the_taken_action_is_the_advantage_and_the_value_it_was_measured_from(returns: str) -> None:
    spec = make_spec()
    updater = make_updater_of(make_trainer("full", PG | {"returns": returns}), spec)
    values = updater.objective.prepare(inputs_of(updater, make_batch(spec)))
    baseline = values["old_value_BT1" if returns == "gae_vtrace" else "prior_value_BT1"][:, :-1]
    torch.testing.assert_close(values["action_return_BT"], values["advantage_BT"] + baseline)


def test_the_whole_loss_improves_a_bandit() -> None:
    # Two actions that pay 1 and 0, an ignorant model: plain gradient steps make the paying one likely.
    loss, logits = loss_of((2,)), torch.zeros(1, 1, 2, requires_grad=True)
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        action = distribution.sample(logits.detach(), (2,), factored=False, generator=generator)
        given = {
            "actions_BT": action,
            "behaviour_log_probs_BTA": torch.log_softmax(logits.detach(), -1),
            "prior_q_BTA": torch.zeros(1, 1, 2),
            "prior_value_BT1": torch.zeros(1, 2),
            "action_return_BT": (action == 0).float(),
            "sigma": torch.tensor(1.0),
        }
        (gradient,) = torch.autograd.grad(policy_term(terms_of(loss, logits, **given)).sum(), logits)
        logits = (logits - 0.2 * gradient).detach().requires_grad_()
    assert torch.softmax(logits, -1)[0, 0, 0].item() > 0.9
