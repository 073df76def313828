"""The nodes that are not losses: what the network and its prior say of a batch, step by step, and the returns made of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from agent import distribution
from agent.model import AgentModel
from learner.loss import Context
from learner.losses.cmpo import ExactCmpo
from learner.nodes.network import Forward, Prior
from learner.nodes.prior_q import PriorQ
from learner.nodes.return_estimators import gae_vtrace, retrace
from learner.nodes.returns import GaeVtrace, Retrace, variance_moments
from learner.nodes.sigma import Sigma
from tests.learner.nodes.node_inputs import FORWARD, GAMMA, PRIOR, picked, world
from tests.learner.worlds import make_spec

CORES = ["none", "lstm", "gru"]


def acted(model: AgentModel, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Logits and values of every step and the final observations' values, one `act` at a time, as an actor would."""
    observations, finals = inputs["observations_BT1"], inputs["final_observations"]
    batch, steps = inputs["rewards_BT"].shape
    logits, values = torch.zeros(batch, steps + 1, model.policy.out_features), torch.zeros(batch, steps + 1)
    final_values = torch.zeros(batch, steps)
    for b in range(batch):
        state = inputs["core_state_BS"][b : b + 1]
        for t in range(steps + 1):
            output = model.act(observations[b, t : t + 1], state)
            logits[b, t], values[b, t], state = output.logits[0], output.value[0], output.core_state
            for number, (row, step) in enumerate(zip(inputs["final_trajectory"], inputs["final_step"], strict=True)):
                if (int(row), int(step)) == (b, t):
                    final_values[b, t] = model.act(finals[number : number + 1], state).value[0]
            if t < steps and (inputs["terminated_BT"][b, t] or inputs["truncated_BT"][b, t]):
                state = torch.zeros_like(state)
    return logits, values, final_values


@pytest.mark.parametrize("core", CORES)
def test_the_forward_node_sees_what_an_actor_would_see_step_by_step(core: str) -> None:
    context, inputs = world(make_spec(core=core))
    assert inputs["final_step"].numel() > 1
    written = Forward(context).prepare(**picked(inputs, *FORWARD))
    logits, values, final_values = acted(context.model, inputs)
    log_probs = logits[:, :-1].log_softmax(-1)
    torch.testing.assert_close(written["old_log_probs_BTA"], log_probs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(written["old_value_BT1"], values, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(written["final_value_BT"], final_values, atol=1e-5, rtol=1e-5)
    actions = inputs["actions_BT"].long().unsqueeze(-1)
    ratio = (log_probs - inputs["behaviour_log_probs_BTA"]).gather(-1, actions).squeeze(-1).exp()
    torch.testing.assert_close(written["importance_ratio_BT"], ratio, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("core", CORES)
def test_the_prior_node_evaluates_the_prior_and_not_the_trained_network(core: str) -> None:
    context, inputs = world(make_spec(core=core))
    written = Prior(context).prepare(**picked(inputs, *PRIOR))
    logits, values, final_values = acted(context.prior, inputs)
    torch.testing.assert_close(written["prior_log_probs_BTA"], logits[:, :-1].log_softmax(-1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(written["prior_value_BT1"], values, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(written["prior_final_value_BT"], final_values, atol=1e-5, rtol=1e-5)


def test_the_joint_ratio_of_a_factored_action_is_the_product_of_its_factors() -> None:
    context, inputs = world(make_spec(sizes=(2, 3), factored=True))
    written = Forward(context).prepare(**picked(inputs, *FORWARD))
    difference = written["old_log_probs_BTA"] - inputs["behaviour_log_probs_BTA"]
    actions = inputs["actions_BT"].long()
    first = difference[..., :2].gather(-1, actions[..., :1])
    second = difference[..., 2:].gather(-1, actions[..., 1:])
    torch.testing.assert_close(written["importance_ratio_BT"], (first + second).squeeze(-1).exp())


def sigma_of(context: Context, target: Tensor, prior_value: Tensor, mask: Tensor) -> Tensor:
    return Sigma(context).prepare(value_target_BT=target, prior_value_BT1=prior_value, mask_BT=mask)["sigma"]


def test_the_returns_node_is_gae_with_the_settings_numbers() -> None:
    coefficients = {"gae_lambda": 0.8, "rho_clip": 0.9, "c_clip": 0.7}
    context, inputs = world(make_spec(), {f"losses.ppo_critic.{name}": value for name, value in coefficients.items()})
    forward = Forward(context).prepare(**picked(inputs, *FORWARD))
    expected = gae_vtrace(
        rewards_BT=inputs["rewards_BT"],
        terminated_BT=inputs["terminated_BT"],
        truncated_BT=inputs["truncated_BT"],
        value_BT1=forward["old_value_BT1"],
        final_value_BT=forward["final_value_BT"],
        importance_ratio_BT=forward["importance_ratio_BT"],
        gamma=GAMMA,
        **coefficients,
    )
    shared = picked(inputs, "rewards_BT", "terminated_BT", "truncated_BT") | {
        name: forward[name] for name in ("old_value_BT1", "final_value_BT", "importance_ratio_BT")
    }
    written = GaeVtrace(context).prepare(**shared)
    assert torch.equal(written["advantage_BT"], expected.advantage)
    assert torch.equal(written["value_target_BT"], expected.value_target)
    prior_value = Prior(context).prepare(**picked(inputs, *PRIOR))["prior_value_BT1"]
    sigma = sigma_of(context, written["value_target_BT"], prior_value, inputs["mask_BT"])
    # The first batch: sigma is the root of the mean of (R - v_prior)^2 over the steps that count.
    error = (expected.value_target - prior_value[:, :-1])[inputs["mask_BT"]]
    torch.testing.assert_close(sigma, error.square().mean().sqrt())


@pytest.mark.parametrize(("sizes", "factored"), [((3,), False), ((2, 3), True)])
def test_the_retrace_node_is_retrace_of_the_priors_policy_and_model(sizes: tuple[int, ...], factored: bool) -> None:
    context, inputs = world(make_spec(sizes=sizes, factored=factored), {"losses.ppo_critic.gae_lambda": 0.8})
    prior = Prior(context).prepare(**picked(inputs, *PRIOR))
    q = PriorQ(context).prepare(prior_latent_BTH=prior["prior_latent_BTH"], actions_BT=inputs["actions_BT"])["prior_q_BTA"]
    written = Retrace(context).prepare(
        **picked(inputs, "rewards_BT", "terminated_BT", "truncated_BT", "actions_BT", "behaviour_log_probs_BTA"),
        prior_log_probs_BTA=prior["prior_log_probs_BTA"],
        prior_q_BTA=q,
        prior_value_BT1=prior["prior_value_BT1"],
        prior_final_value_BT=prior["prior_final_value_BT"],
    )
    columns = distribution.action_columns(inputs["actions_BT"], sizes, factored=factored)
    policy = prior["prior_log_probs_BTA"].exp()
    ratio = (prior["prior_log_probs_BTA"] - inputs["behaviour_log_probs_BTA"]).gather(-1, columns).sum(-1).exp()
    expected = retrace(
        rewards_BT=inputs["rewards_BT"],
        terminated_BT=inputs["terminated_BT"],
        truncated_BT=inputs["truncated_BT"],
        q_taken_BT=q.gather(-1, columns)[..., 0],  # the taken action's q, whichever factor's column it is read from
        expected_q_BT=prior["prior_value_BT1"][:, :-1] if factored else (policy * q).sum(-1),
        final_value_BT=prior["prior_final_value_BT"],
        bootstrap_value_B=prior["prior_value_BT1"][:, -1],
        importance_ratio_BT=ratio,
        gamma=GAMMA,
        retrace_lambda=0.8,
    )
    torch.testing.assert_close(written["value_target_BT"], expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(written["advantage_BT"], expected - prior["prior_value_BT1"][:, :-1], atol=1e-4, rtol=1e-4)
    root_mean_square = written["advantage_BT"][inputs["mask_BT"]].square().mean().sqrt()
    sigma = sigma_of(context, written["value_target_BT"], prior["prior_value_BT1"], inputs["mask_BT"])
    torch.testing.assert_close(sigma, root_mean_square)


def test_with_exact_values_retrace_has_no_bias_where_several_factors_were_chosen_by_another_policy() -> None:
    # Two steps, then the episode ends with the reward q(a_1) of the joint action; q and v of the prior are exact. Over the
    # behaviour policy's draws of a_1 the mean of G_0 = gamma [v + c (q(a_1) - q(a_1))] is gamma E_pi q. A mean over factors of
    # E_pi q(b, others as taken) would depend on which others the behaviour policy takes.
    sizes = (2, 2)
    context, _ = world(make_spec(sizes=sizes, factored=True))
    values = torch.tensor([[1.0, -2.0], [0.5, 4.0]])
    prior = [torch.tensor([0.8, 0.2]), torch.tensor([0.3, 0.7])]
    behaviour = [torch.tensor([0.25, 0.75]), torch.tensor([0.6, 0.4])]
    exact = float(torch.einsum("a,b,ab->", *prior, values))
    mean = 0.0
    for a, b in np.ndindex(sizes):
        written = Retrace(context).prepare(
            rewards_BT=torch.tensor([[0.0, values[a, b].item()]]),
            terminated_BT=torch.tensor([[False, True]]),
            truncated_BT=torch.zeros(1, 2, dtype=torch.bool),
            actions_BT=torch.tensor([[[0, 0], [a, b]]]),
            behaviour_log_probs_BTA=torch.cat(behaviour).log().expand(1, 2, 4),
            prior_log_probs_BTA=torch.cat(prior).log().expand(1, 2, 4),
            prior_q_BTA=torch.stack([torch.zeros(4), torch.cat([values[:, b], values[a]])]).unsqueeze(0),
            prior_value_BT1=torch.tensor([[0.0, exact, 0.0]]),
            prior_final_value_BT=torch.zeros(1, 2),
        )
        mean += float(behaviour[0][a] * behaviour[1][b]) * written["value_target_BT"][0, 0].item()
    assert mean == pytest.approx(GAMMA * exact, abs=1e-6)


def test_the_moments_of_targets_and_errors() -> None:
    # Targets 1 and 3, values 0.5 and 1: errors 0.5 and 2.
    mask = torch.tensor([[True, True]])
    found = variance_moments(torch.tensor([[1.0, 3.0]]), torch.tensor([[0.5, 1.0]]), mask)
    assert {name: entry.value.tolist() for name, entry in found.items()} == {
        "target": [[1, 3]],
        "target_squared": [[1, 9]],
        "error": [[0.5, 2]],
        "error_squared": [[0.25, 4]],
    }
    assert all(entry.mask is mask for entry in found.values())


@pytest.mark.parametrize("scale", [1e-3, 0.1, 1e3])
def test_rewards_in_other_units_give_the_same_cmpo_target(scale: float) -> None:
    # Rewards, values and q in other units: returns and sigma follow, and the advantages over sigma stay.
    spec = make_spec()
    context, inputs = world(spec, {"losses.cmpo.advantage_clip": 0.7})
    forward = Forward(context).prepare(**picked(inputs, *FORWARD))
    prior = Prior(context).prepare(**picked(inputs, *PRIOR))
    latent = prior["prior_latent_BTH"]
    q = PriorQ(context).prepare(prior_latent_BTH=latent, actions_BT=inputs["actions_BT"])["prior_q_BTA"]
    targets = []
    for unit in (1.0, scale):
        context.advantage_scale.load({"moment": 0.0, "weight": 0.0})
        returns = GaeVtrace(context).prepare(
            rewards_BT=unit * inputs["rewards_BT"],
            **picked(inputs, "terminated_BT", "truncated_BT"),
            old_value_BT1=unit * forward["old_value_BT1"],
            final_value_BT=unit * forward["final_value_BT"],
            importance_ratio_BT=forward["importance_ratio_BT"],
        )
        written = ExactCmpo(context).prepare(
            prior_log_probs_BTA=prior["prior_log_probs_BTA"],
            prior_q_BTA=unit * q,
            prior_value_BT1=unit * prior["prior_value_BT1"],
            sigma=sigma_of(context, returns["value_target_BT"], unit * prior["prior_value_BT1"], inputs["mask_BT"]),
        )
        targets.append(written["cmpo_policy_BTA"])
    torch.testing.assert_close(targets[1], targets[0], atol=1e-5, rtol=0)
    assert not torch.allclose(targets[0], prior["prior_log_probs_BTA"].exp(), atol=0.01)
