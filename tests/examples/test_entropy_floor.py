"""The example of a loss of one's own: its numbers by hand, its gradient, and that it takes part in a plan."""

from __future__ import annotations

from math import log

import pytest
import torch

from agent.settings import AgentSettings
from examples.entropy_floor import COEF, FLOOR, EntropyFloor
from learner.loss import Term
from learner.plan import make_plan
from oatmill.errors import UserError
from protocol.data.spaces import ActionSpace
from tests.learner.worlds import learn, make_batch, make_context, make_spec, make_trainer, make_updater_of

OWN = {"extra_losses": ("examples.entropy_floor:choose",)}


def test_what_is_missing_to_the_floor_by_hand() -> None:
    # Two actions: the floor is 0.2 ln 2. An even policy has ln 2 and misses nothing; (1 - e, e) misses nearly all of it.
    loss = EntropyFloor(make_context(spec=make_spec(sizes=(2,))))
    logits = torch.tensor([[[0.0, 0.0], [20.0, 0.0]]], requires_grad=True)
    terms = loss.compute(logits_BTA=logits, mask_BT=torch.ones(1, 2, dtype=torch.bool))
    missing = terms["missing"]
    assert isinstance(missing, Term)
    assert missing.coef == COEF
    assert missing.value[0].tolist() == pytest.approx([0.0, FLOOR * log(2)], abs=1e-6)
    assert terms["below"].value[0].tolist() == [0, 1]
    (gradient,) = torch.autograd.grad(missing.value.sum(), logits)
    assert gradient[0, 0].tolist() == [0, 0], "above the floor nothing is pushed"
    assert gradient[0, 1, 0] > 0 > gradient[0, 1, 1], "going down the gradient evens the choices out"


def test_it_takes_part_in_a_plan_and_is_reported_like_any_other() -> None:
    trainer, spec = make_trainer("baseline", OWN), make_spec()
    plan = make_plan(trainer, spec.settings, spec.spaces.action)
    assert plan.losses == ["ppo_critic", "ppo_actor", "entropy_floor"]
    assert plan.reads["entropy_floor"] == ["logits_BTA", "mask_BT"]
    assert plan.notes == ("entropy_floor acts below 20% of a uniform policy's entropy",)
    record = learn(make_updater_of(trainer, spec), make_batch(spec))
    assert ("entropy_floor", "missing") in record.keys
    assert record.gradients is not None
    assert record.gradients.shape == (3, 2)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere:choose", "trainer.extra_losses nowhere:choose: module nowhere cannot be imported"),
        (
            "examples.entropy_floor:nothing",
            "examples.entropy_floor has no function nothing; expected one that",
        ),
        ("builtins:str", r"builtins:str must return a learner.loss.Choice or None, got str"),
    ],
)
def test_a_loss_that_cannot_be_loaded_is_one_line(path: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_plan(make_trainer("baseline", {"extra_losses": (path,)}), AgentSettings(), ActionSpace((3,)))
