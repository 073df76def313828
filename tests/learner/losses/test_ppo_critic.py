"""The critic: values and gradients by hand, the value clip, categorical heads, and what must not be read or moved."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from learner.loss import Question, Term
from learner.losses import ppo_critic
from learner.losses.ppo_critic import ClippedPpoCritic, PpoCritic
from protocol.data.spaces import ActionSpace
from tests.learner import oracles
from tests.learner.worlds import make_context, make_spec, make_trainer

EVERYWHERE = torch.ones(1, 1, dtype=torch.bool)


def critic(kind: type[PpoCritic | ClippedPpoCritic], changes: dict[str, Any] | None = None, **agent: Any) -> Any:
    paths = {f"losses.ppo_critic.{name}": value for name, value in (changes or {}).items()}
    return kind(make_context(make_trainer("baseline", paths), make_spec(**agent)))


def single(value: float) -> Tensor:
    return torch.tensor([[value]])


def test_the_loss_and_its_gradient_by_hand() -> None:
    # V = 3, R = 1: 1/2 * 2^2 = 2, and d/dV = V - R = 2. The target gets no gradient.
    raw = torch.tensor([[[3.0]]], requires_grad=True)
    target = single(1.0).requires_grad_()
    term = critic(PpoCritic, {"vf_coef": 0.25}).compute(value_raw_BT=raw, critic_target_BT=target, mask_BT=EVERYWHERE)["value"]
    assert isinstance(term, Term)
    assert (term.value.item(), term.coef) == (2.0, 0.25)
    torch.autograd.backward(term.value.sum())
    assert raw.grad is not None
    assert raw.grad.item() == 2.0
    assert target.grad is None or target.grad.item() == 0


@pytest.mark.parametrize(
    ("value", "old", "target", "loss", "gradient"),
    [
        # clip 0.5. V - old = 2 is cut to 0.5: errors (3 - 0)^2 and (1.5 - 0)^2; the unclipped one is larger: 4.5, gradient 3.
        (3.0, 1.0, 0.0, 4.5, 3.0),
        # V = 3, old 1, R = 5: errors 4 and (1.5 - 5)^2 = 12.25; the clipped one is larger: 6.125 and no gradient is left.
        (3.0, 1.0, 5.0, 6.125, 0.0),
        # Within the clip both are the same: 1/2 (1.25 - 1)^2 = 0.03125, gradient 0.25.
        (1.25, 1.0, 1.0, 0.03125, 0.25),
        # Below: V - old = -2 is cut to -0.5: V_clip = 0.5, errors (-1 - -4)^2 = 9 and 4.5^2 = 20.25: 10.125, no gradient.
        (-1.0, 1.0, -4.0, 10.125, 0.0),
    ],
)
def test_the_clipped_loss_and_its_gradient_by_hand(
    value: float, old: float, target: float, loss: float, gradient: float
) -> None:
    raw = torch.tensor([[[value]]], requires_grad=True)
    terms = critic(ClippedPpoCritic, {"clip_vloss": True, "vf_clip_coef": 0.5}).compute(
        value_raw_BT=raw, old_value_BT1=torch.tensor([[old, 99.0]]), critic_target_BT=single(target), mask_BT=EVERYWHERE
    )
    assert terms["value"].value.item() == pytest.approx(loss)
    assert terms["value"].coef == 0.5
    torch.autograd.backward(terms["value"].value.sum())
    assert raw.grad is not None
    assert raw.grad.item() == pytest.approx(gradient)


def test_each_step_is_clipped_around_its_own_old_value() -> None:
    rng = np.random.default_rng(0)
    value, old, target = rng.normal(size=(2, 3)), rng.normal(size=(2, 4)), rng.normal(size=(2, 3))
    terms = critic(ClippedPpoCritic, {"clip_vloss": True, "vf_clip_coef": 0.5}).compute(
        value_raw_BT=torch.from_numpy(value).unsqueeze(-1),
        old_value_BT1=torch.from_numpy(old),
        critic_target_BT=torch.from_numpy(target),
        mask_BT=torch.ones(2, 3, dtype=torch.bool),
    )
    for b, t in np.ndindex(2, 3):
        clipped = min(max(value[b, t], old[b, t] - 0.5), old[b, t] + 0.5)
        expected = 0.5 * max((value[b, t] - target[b, t]) ** 2, (clipped - target[b, t]) ** 2)
        assert terms["value"].value[b, t].item() == pytest.approx(expected)


def test_a_categorical_heads_loss_is_the_cross_entropy_to_the_two_hot_target() -> None:
    # Bins -10, -9, ..., 10 in h-space.
    rng = np.random.default_rng(0)
    raw, targets = rng.normal(size=(4, 5, 21)), rng.uniform(-150, 150, (4, 5))
    term = critic(PpoCritic, value_head="categorical").compute(
        value_raw_BT=torch.from_numpy(raw).float(),
        critic_target_BT=torch.from_numpy(targets),
        mask_BT=torch.ones(4, 5, dtype=torch.bool),
    )["value"]
    log_probs = np.log(oracles.softmax(raw))
    for b, t in np.ndindex(4, 5):
        expected = -(oracles.two_hot(oracles.squash(float(targets[b, t])), 21, 10.0) * log_probs[b, t]).sum()
        assert term.value[b, t].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("kind", "head"), [(PpoCritic, "scalar"), (PpoCritic, "categorical"), (ClippedPpoCritic, "scalar")])
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e9])
def test_a_target_that_does_not_count_changes_no_gradient(
    kind: type[PpoCritic | ClippedPpoCritic], head: str, poison: float
) -> None:
    loss = critic(kind, value_head=head)
    before = {"old_value_BT1": torch.zeros(1, 3)} if kind is ClippedPpoCritic else {}
    mask = torch.tensor([[True, False]])
    gradients = []
    for other in (0.0, poison):
        raw = torch.linspace(-1, 1, 2 * loss.codec.width).view(1, 2, -1).requires_grad_()
        target = torch.tensor([[1.0, other]])
        written = loss.prepare(value_target_BT=target, mask_BT=mask)
        term = loss.compute(value_raw_BT=raw, mask_BT=mask, **written, **before)["value"]
        torch.autograd.backward(torch.where(term.mask, term.value, 0.0).sum())
        assert raw.grad is not None
        gradients.append(raw.grad)
    assert torch.equal(*gradients)
    assert gradients[0].abs().sum() > 0


@pytest.mark.parametrize(
    ("clip", "head", "kind", "noted"),
    [
        (False, "scalar", PpoCritic, False),
        (False, "categorical", PpoCritic, False),
        (True, "scalar", ClippedPpoCritic, False),
        (True, "categorical", PpoCritic, True),
    ],
)
def test_the_value_clip_needs_a_scalar_head_and_the_plan_says_so(clip: bool, head: str, kind: type, noted: bool) -> None:
    trainer, spec = make_trainer("baseline", {"losses.ppo_critic.clip_vloss": clip}), make_spec(value_head=head)
    choice = ppo_critic.choose(Question(trainer, spec.settings, ActionSpace((3,))))
    assert choice is not None
    assert choice.loss is kind
    assert any("vf_clip_coef is ignored" in note for note in choice.notes) == noted
