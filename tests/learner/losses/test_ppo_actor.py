"""The clipped surrogate and the entropy bonus: values and gradients by hand, both anchors, and what must not be read."""

from __future__ import annotations

from math import log
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from learner.loss import Context, Question, Term
from learner.losses import ppo_actor
from learner.losses.ppo_actor import PpoActor, ProximalPpoActor, clipped_surrogate, normalised
from learner.ranks.reduce import OneRank
from protocol.data.spaces import ActionSpace
from tests.learner import oracles
from tests.learner.worlds import inputs_of, make_batch, make_context, make_spec, make_trainer, make_updater_of

EVERYWHERE = torch.ones(1, 1, dtype=torch.bool)


def make_loss(kind: type[PpoActor | ProximalPpoActor], changes: dict[str, Any] | None = None, **spec: Any) -> Any:
    return kind(context(changes, **spec))


def context(changes: dict[str, Any] | None = None, **spec: Any) -> Context:
    paths = {f"losses.ppo_actor.{name}": value for name, value in ({"norm_adv": False} | (changes or {})).items()}
    return make_context(make_trainer("baseline", paths), make_spec(**spec))


def logs(*probabilities: float) -> Tensor:
    return torch.tensor([[probabilities]], dtype=torch.float32).log()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        # clip 0.2. Inside: -r A. Outside where the objective would still gain: the cut value, no gradient. Outside where it
        # would lose: -r A in full.
        (1.1, 2.0, -2.2, -2.0),
        (1.5, 2.0, -2.4, 0.0),
        (0.5, 2.0, -1.0, -2.0),
        (1.5, -2.0, 3.0, 2.0),
        (0.5, -2.0, 1.6, 0.0),
        (0.9, -2.0, 1.8, 2.0),
    ],
)
def test_the_clipped_surrogate_and_its_gradient_by_hand(ratio: float, advantage: float, loss: float, gradient: float) -> None:
    r = torch.tensor(ratio, dtype=torch.float64, requires_grad=True)
    value = clipped_surrogate(r, torch.tensor(advantage, dtype=torch.float64), 0.2)
    torch.autograd.backward(value)
    assert r.grad is not None
    assert value.item() == pytest.approx(loss)
    assert r.grad.item() == pytest.approx(gradient)


@settings(max_examples=50, deadline=None)
@given(st.floats(0.01, 10), st.floats(-5, 5), st.floats(0.01, 1))
def test_the_clipped_surrogate_is_the_papers(ratio: float, advantage: float, clip: float) -> None:
    ours = clipped_surrogate(torch.tensor(ratio, dtype=torch.float64), torch.tensor(advantage, dtype=torch.float64), clip)
    np.testing.assert_allclose(ours.item(), oracles.surrogate(np.array(ratio), np.array(advantage), clip), atol=1e-12)


def prepared(
    loss: Any, *, behaviour: Tensor, old: Tensor, advantage: Tensor, actions: Tensor, mask: Tensor
) -> dict[str, Tensor]:
    inputs = {
        "advantage_BT": advantage,
        "mask_BT": mask,
        "behaviour_log_probs_BTA": behaviour,
        "old_log_probs_BTA": old,
        "actions_BT": actions,
    }
    if isinstance(loss, ProximalPpoActor):
        inputs["importance_ratio_BT"] = loss.policies.log_ratio(old, behaviour, actions).exp()
    return dict(loss.prepare(**inputs))


def test_the_policy_term_and_its_gradient_by_hand() -> None:
    # pi = (0.5, 0.3, 0.2), the action 0 was taken with pi_b = 0.4: r = 1.25, A = 2, inside a clip of 0.3. -r A = -2.5;
    # d/dlogits = -A r (onehot - pi) = -2.5 * (0.5, -0.3, -0.2). The entropy is -(0.5 ln 0.5 + 0.3 ln 0.3 + 0.2 ln 0.2).
    loss = make_loss(PpoActor, {"clip_coef": 0.3, "ent_coef": 0.02})
    logits = logs(0.5, 0.3, 0.2).requires_grad_()
    actions = torch.tensor([[0]])
    written = prepared(
        loss,
        behaviour=logs(0.4, 0.3, 0.3),
        old=logs(0.8, 0.1, 0.1),
        advantage=torch.tensor([[2.0]]),
        actions=actions,
        mask=EVERYWHERE,
    )
    terms = loss.compute(logits_BTA=logits, actions_BT=actions, mask_BT=EVERYWHERE, **written)
    assert (terms["policy"].value.item(), terms["policy"].coef) == (pytest.approx(-2.5), 1.0)
    entropy = -(0.5 * log(0.5) + 0.3 * log(0.3) + 0.2 * log(0.2))
    assert (terms["entropy"].value.item(), terms["entropy"].coef) == (pytest.approx(entropy), -0.02)
    (gradient,) = torch.autograd.grad(terms["policy"].value.sum(), logits)
    torch.testing.assert_close(gradient, torch.tensor([[[-1.25, 0.75, 0.5]]]))
    # log pi - log pi_old = ln(0.5 / 0.8); k3 = x - 1 - ln x of the ratio 0.625. To the behaviour: of 1.25.
    assert terms["approx_kl"].value.item() == pytest.approx(0.625 - 1 - log(0.625), abs=1e-6)
    assert terms["behaviour_kl"].value.item() == pytest.approx(1.25 - 1 - log(1.25), abs=1e-6)
    assert terms["clip_ratio"].value.item() == 0


def test_the_entropys_gradient_by_hand() -> None:
    # dH/dlogit_i = -p_i (log p_i + H).
    loss = make_loss(PpoActor)
    p = np.array([0.5, 0.3, 0.2])
    logits = logs(*p).requires_grad_()
    written = prepared(
        loss, behaviour=logs(*p), old=logs(*p), advantage=torch.zeros(1, 1), actions=torch.tensor([[0]]), mask=EVERYWHERE
    )
    terms = loss.compute(logits_BTA=logits, actions_BT=torch.tensor([[0]]), mask_BT=EVERYWHERE, **written)
    (gradient,) = torch.autograd.grad(terms["entropy"].value.sum(), logits)
    entropy = -(p * np.log(p)).sum()
    np.testing.assert_allclose(gradient.numpy().ravel(), -p * (np.log(p) + entropy), atol=1e-6)


def test_a_bandit_action_is_weighed_by_its_ratio_once() -> None:
    # pi / pi_b = 0.4 and the reward 1 with values 0: the surrogate's value is -0.4, not -0.16.
    loss = make_loss(PpoActor, {"clip_coef": 0.9})
    written = prepared(
        loss,
        behaviour=logs(0.5, 0.25, 0.25),
        old=logs(0.2, 0.4, 0.4),
        advantage=torch.tensor([[1.0]]),
        actions=torch.tensor([[0]]),
        mask=EVERYWHERE,
    )
    terms = loss.compute(logits_BTA=logs(0.2, 0.4, 0.4), actions_BT=torch.tensor([[0]]), mask_BT=EVERYWHERE, **written)
    assert terms["policy"].value.item() == pytest.approx(-0.4)


def test_the_proximal_anchor_clips_against_the_old_policy_and_weighs_by_its_ratio_to_behaviour() -> None:
    # pi = 0.6, old = 0.5, behaviour = 0.8: r = 1.2 is inside a clip of 0.3, the weight is 0.625. A = 2: -0.625 * 2 * 1.2.
    # Against the behaviour r would be 0.75. With old / behaviour = 5 the weight is cut to 1: -2.4.
    loss = make_loss(ProximalPpoActor, {"clip_coef": 0.3, "anchor": "proximal"})
    for behaviour, expected in ((0.8, -1.5), (0.1, -2.4)):
        written = prepared(
            loss,
            behaviour=logs(behaviour, 1 - behaviour, 1e-9),
            old=logs(0.5, 0.25, 0.25),
            advantage=torch.tensor([[2.0]]),
            actions=torch.tensor([[0]]),
            mask=EVERYWHERE,
        )
        terms = loss.compute(logits_BTA=logs(0.6, 0.2, 0.2), actions_BT=torch.tensor([[0]]), mask_BT=EVERYWHERE, **written)
        assert terms["policy"].value.item() == pytest.approx(expected, rel=1e-5)
        assert terms["approx_kl"].value.item() == pytest.approx(1.2 - 1 - log(1.2), abs=1e-6)
        moved = 0.6 / behaviour
        assert terms["behaviour_kl"].value.item() == pytest.approx(moved - 1 - log(moved), rel=1e-5)


def test_with_several_factors_the_ratio_is_joint_and_the_entropy_is_summed() -> None:
    # Factors of 2 and 3; taken (1, 2): log-ratio = ln(0.6 / 0.5) + ln(0.5 / 0.25) = ln 2.4.
    loss = make_loss(PpoActor, {"clip_coef": 1.0}, sizes=(2, 3), factored=True)
    actions = torch.tensor([[[1, 2]]])
    behaviour = logs(0.5, 0.5, 0.5, 0.25, 0.25)
    written = prepared(
        loss, behaviour=behaviour, old=behaviour, advantage=torch.tensor([[-1.0]]), actions=actions, mask=EVERYWHERE
    )
    terms = loss.compute(logits_BTA=logs(0.4, 0.6, 0.2, 0.3, 0.5), actions_BT=actions, mask_BT=EVERYWHERE, **written)
    assert terms["policy"].value.item() == pytest.approx(2.4, rel=1e-5)
    entropy = -sum(p * log(p) for p in (0.4, 0.6, 0.2, 0.3, 0.5))
    assert terms["entropy"].value.item() == pytest.approx(entropy, rel=1e-5)


def test_the_clip_ratio_counts_ratios_outside_the_clip_on_either_side() -> None:
    loss = make_loss(PpoActor, {"clip_coef": 0.2}, sizes=(2,))
    half = torch.full((1, 3, 2), 0.5).log()
    mask, actions = torch.ones(1, 3, dtype=torch.bool), torch.zeros(1, 3, dtype=torch.long)
    written = prepared(loss, behaviour=half, old=half, advantage=torch.zeros(1, 3), actions=actions, mask=mask)
    policy = torch.tensor([[[0.65, 0.35], [0.55, 0.45], [0.35, 0.65]]]).log()  # ratios 1.3, 1.1, 0.7
    terms = loss.compute(logits_BTA=policy, actions_BT=actions, mask_BT=mask, **written)
    assert terms["clip_ratio"].value.tolist() == [[1, 0, 1]]


def test_advantages_are_normalised_over_the_steps_that_count() -> None:
    # 1, 3 and 5 count: mean 3, variance 8/3.
    mask = torch.tensor([[True, True, False, True]])
    result = normalised(torch.tensor([[1.0, 3.0, float("nan"), 5.0]]), mask, OneRank())
    unit = (8 / 3) ** 0.5
    torch.testing.assert_close(result, torch.tensor([[-2 / unit, 0.0, 0.0, 2 / unit]]))


def test_equal_advantages_normalise_to_0_and_not_to_nan() -> None:
    # Of seven times 0.7 rounding makes the variance -2e-16.
    for count, advantage in ((3, 7.0), (7, 0.7)):
        equal = torch.full((1, count), advantage, dtype=torch.float64)
        assert normalised(equal, torch.ones(1, count, dtype=torch.bool), OneRank()).abs().max() < 1e-6


def test_advantages_are_normalised_however_small_their_spread_and_however_large_their_mean() -> None:
    # Mean 1e6 + 0.5 and deviation 0.5: float32 squares would have lost it.
    result = normalised(torch.tensor([[1e6, 1e6 + 1]]), torch.ones(1, 2, dtype=torch.bool), OneRank())
    torch.testing.assert_close(result, torch.tensor([[-1.0, 1.0]]), atol=1e-3, rtol=0)


def test_one_step_alone_normalises_to_0() -> None:
    mask = torch.tensor([[False, True]])
    assert normalised(torch.tensor([[3.0, 5.0]]), mask, OneRank()).tolist() == [[0, 0]]
    assert normalised(torch.tensor([[3.0, 5.0]]), torch.zeros_like(mask), OneRank()).tolist() == [[0, 0]]


def test_normalisation_is_over_all_ranks() -> None:
    # Here 0 and 2, elsewhere 4: mean 2, variance (4 + 0 + 4) / 3.
    class Other:
        world_size = 2

        def sum(self, values: Tensor) -> Tensor:
            return values + torch.tensor([4.0, 16.0, 1.0], dtype=torch.float64)

    result = normalised(torch.tensor([[0.0, 2.0]]), torch.ones(1, 2, dtype=torch.bool), Other())
    torch.testing.assert_close(result, torch.tensor([[-2 / (8 / 3) ** 0.5, 0.0]]))


@pytest.mark.parametrize("norm_adv", [False, True])
@pytest.mark.parametrize("kind", [PpoActor, ProximalPpoActor])
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e9])
def test_an_advantage_that_does_not_count_changes_nothing(norm_adv: bool, kind: type[PpoActor], poison: float) -> None:
    loss = make_loss(kind, {"norm_adv": norm_adv})
    policy = torch.tensor([[[0.5, 0.3, 0.2]] * 3]).log()
    mask, actions = torch.tensor([[True, True, False]]), torch.tensor([[0, 1, 2]])
    results = []
    for other in (0.0, poison):
        written = prepared(
            loss, behaviour=policy, old=policy, advantage=torch.tensor([[1.0, 2.0, other]]), actions=actions, mask=mask
        )
        logits = torch.tensor([[[0.1, 0.2, 0.3]] * 3], requires_grad=True)
        terms = loss.compute(logits_BTA=logits, actions_BT=actions, mask_BT=mask, **written)
        total = sum(
            term.coef * torch.where(term.mask, term.value, 0.0).sum() for term in terms.values() if isinstance(term, Term)
        )
        assert isinstance(total, Tensor)
        results.append((total, *torch.autograd.grad(total, logits)))
    for before, after in zip(*results, strict=True):
        assert torch.equal(before, after)


def test_no_gradient_flows_into_advantages_or_anchors() -> None:
    loss = make_loss(ProximalPpoActor, {"anchor": "proximal"})
    sources = [logs(0.4, 0.3, 0.3).requires_grad_(), logs(0.5, 0.3, 0.2).requires_grad_(), torch.ones(1, 1, requires_grad=True)]
    with torch.no_grad():  # as the objective runs it
        written = prepared(
            loss, behaviour=sources[0], old=sources[1], advantage=sources[2], actions=torch.tensor([[0]]), mask=EVERYWHERE
        )
    assert not any(tensor.requires_grad for tensor in written.values())


@pytest.mark.parametrize(("anchor", "kind"), [("behaviour", PpoActor), ("proximal", ProximalPpoActor)])
def test_the_anchor_chooses_the_class(anchor: str, kind: type) -> None:
    trainer = make_trainer("baseline", {"losses.ppo_actor.anchor": anchor})
    choice = ppo_actor.choose(Question(trainer, make_spec().settings, ActionSpace((3,))))
    assert choice is not None
    assert choice.loss is kind


def test_a_spread_as_small_as_the_floor_is_not_blown_up() -> None:
    # Advantages 0 and 2e-8: mean 1e-8, standard deviation 1e-8, and as much again in the denominator.
    found = normalised(torch.tensor([[0.0, 2e-8]], dtype=torch.float64), torch.ones(1, 2, dtype=torch.bool), OneRank())
    assert found.tolist() == [[pytest.approx(-0.5, rel=1e-3), pytest.approx(0.5, rel=1e-3)]]


def test_without_a_step_that_counts_every_advantage_is_0() -> None:
    assert normalised(torch.full((1, 2), 3.0), torch.zeros(1, 2, dtype=torch.bool), OneRank()).tolist() == [[0, 0]]


def test_a_ratio_at_the_clip_is_not_outside() -> None:
    # 0.25 and the ratios are exact in binary.
    loss = PpoActor(make_context(make_trainer("baseline", {"losses.ppo_actor.clip_coef": 0.25})))
    ratio = torch.tensor([[0.75, 1.25, 0.74, 1.26]])
    terms = loss.terms(torch.full((1, 4, 3), -log(3)), ratio, torch.ones(1, 4), torch.ones(1, 4, dtype=torch.bool))
    assert terms["clip_ratio"].value[0].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("changes", [{}, {"norm_adv": False}, {"anchor": "proximal"}])
def test_what_multiplies_the_ratio_is_0_where_a_step_does_not_count(changes: dict[str, Any]) -> None:
    spec = make_spec()
    trainer = make_trainer("baseline", {f"losses.ppo_actor.{name}": value for name, value in changes.items()})
    updater = make_updater_of(trainer, spec)
    values = updater.objective.prepare(inputs_of(updater, make_batch(spec, absent=True)))
    for name in {"policy_advantage_BT", "anchor_weight_BT"} & values.keys():
        assert (values[name][~values["mask_BT"]] == 0).all(), name
        assert (values[name][values["mask_BT"]] != 0).any(), name
