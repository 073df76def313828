"""What a plan costs: counts that are worked out by hand for a small network."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from agent.settings import AgentSettings
from agent.spec import AgentSpec
from learner.cost import PlanCost, plan_cost
from learner.plan import make_plan
from learner.settings import TrainerSettings
from protocol.data.spaces import ActionSpace, ObservationSpace, Spaces
from tests.learner.worlds import PLANS, make_spec, make_trainer

T = 5
ENCODER, POLICY, VALUE = 4 * 8 + 8, 8 * 3 + 3, 8 + 1


def cost_of(trainer: TrainerSettings, spec: AgentSpec | None = None) -> PlanCost:
    spec = spec or make_spec()
    plan = make_plan(trainer, spec.settings, spec.spaces.action)
    return plan_cost(plan, spec, trainer, unroll_length=T)


def test_a_loss_trains_what_it_has_a_gradient_for() -> None:
    cost = cost_of(make_trainer("baseline"))
    assert cost.trained == {"ppo_critic": ENCODER + VALUE, "ppo_actor": ENCODER + POLICY}
    assert cost.parameters == ENCODER + POLICY + VALUE


def test_the_operations_of_a_batch_by_hand() -> None:
    # A product of n inputs and m outputs takes 2nm operations. Once a batch, without gradient: the encoder and value head of 6
    # observations, the policy head of 5. In each of 2 epochs forward: 5 of all; back: the weights' gradients cost as much as
    # forward and so do the inputs', which the first layer has none of. All that for 6 trajectories.
    encoder, policy, value = 2 * 4 * 8, 2 * 8 * 3, 2 * 8 * 1
    prepare = 6 * (encoder + value) + 5 * policy
    passes = 5 * (2 * encoder + 3 * policy + 3 * value)
    assert cost_of(make_trainer("baseline")).flops == {
        "forward": 6 * (prepare + 2 * passes),
        "returns": 0,
        "ppo_critic": 0,
        "ppo_actor": 0,
    }


def test_a_longer_unroll_costs_more_in_proportion() -> None:
    three, six = (cost_of(make_trainer("full", {"losses.dynamics.unroll_steps": k})).flops["unroll"] for k in (3, 6))
    assert six / three == pytest.approx(2.0, rel=0.1)


@pytest.mark.parametrize("arm", PLANS)
def test_every_node_of_an_arm_has_a_count_and_every_loss_its_coefficients(arm: str) -> None:
    trainer = make_trainer(arm)
    cost = cost_of(trainer)
    plan = make_plan(trainer, make_spec().settings, ActionSpace((3,)))
    assert set(cost.flops) == set(plan.order)
    assert set(cost.coefs) == set(cost.trained) == set(plan.losses)
    assert all(flops > 0 for node, flops in cost.flops.items() if node in {"forward", "prior", "prior_q", "unroll"})


AGENTS: list[tuple[dict[str, Any], ObservationSpace]] = [
    ({"core": "gru"}, ObservationSpace("vector", (4,), "float32")),
    ({"encoder": "cnn"}, ObservationSpace("image", (3, 12, 12), "uint8")),
]


@pytest.mark.parametrize(("settings", "space"), AGENTS)
def test_other_networks_and_several_factors_are_counted_too(settings: dict[str, Any], space: ObservationSpace) -> None:
    agent = AgentSettings.model_validate({"hidden_sizes": (8,), "model_hidden": 5} | settings)
    spec = AgentSpec(Spaces(space, ActionSpace((2, 3), factored=True)), agent)
    cost = cost_of(make_trainer("full"), spec)
    assert sum(cost.flops.values()) > 0
    assert cost.trained["dynamics"] > 0


def test_counting_leaves_the_random_numbers_of_others_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    cost_of(make_trainer("baseline"))
    assert torch.equal(torch.rand(4), expected)
