"""The prior's q: of every action and of sampled ones, by the rewards and values of its model or by its advantages."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from learner.loss import Context
from learner.nodes.network import Prior
from learner.nodes.prior_q import AdvantageQ, AdvantageSamples, PriorQ, PriorSamples
from tests.learner.nodes.node_inputs import GAMMA, PRIOR, picked, world
from tests.learner.worlds import make_spec


def one_step_q(context: Context, latent: Tensor, columns: list[int]) -> Tensor:
    """r1 + gamma v1 of the prior's model for one latent and one action, the long way."""
    prior = context.prior
    advanced = prior.transition(latent.unsqueeze(0), torch.tensor([columns]))
    reward = prior.codec.value(prior.model_reward(advanced))
    return (reward + GAMMA * prior.codec.value(prior.model_value(advanced)))[0]


@pytest.mark.parametrize("head", ["scalar", "categorical"])
def test_q_of_every_action_is_the_one_step_models_reward_and_discounted_value(head: str) -> None:
    context, inputs = world(make_spec(value_head=head))
    latent = Prior(context).prepare(**picked(inputs, *PRIOR))["prior_latent_BTH"]
    q = PriorQ(context).prepare(prior_latent_BTH=latent, actions_BT=inputs["actions_BT"])["prior_q_BTA"]
    for b, t, a in np.ndindex(5, 8, 3):
        torch.testing.assert_close(q[b, t, a], one_step_q(context, latent[b, t], [a]), atol=1e-4, rtol=1e-4)


def test_q_of_a_factors_choice_leaves_the_other_factors_as_taken() -> None:
    context, inputs = world(make_spec(sizes=(2, 3), factored=True))
    latent = Prior(context).prepare(**picked(inputs, *PRIOR))["prior_latent_BTH"]
    q = PriorQ(context).prepare(prior_latent_BTH=latent, actions_BT=inputs["actions_BT"])["prior_q_BTA"]
    for b, t in np.ndindex(5, 8):
        first, second = (int(choice) for choice in inputs["actions_BT"][b, t])
        pairs = [(choice, second) for choice in range(2)] + [(first, choice) for choice in range(3)]
        for column, (one, other) in enumerate(pairs):
            expected = one_step_q(context, latent[b, t], [one, 2 + other])
            torch.testing.assert_close(q[b, t, column], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("sizes", "factored"), [((3,), False), ((2, 3), True)])
def test_drawn_actions_follow_the_prior_and_q_is_of_what_was_drawn(sizes: tuple[int, ...], factored: bool) -> None:
    spec = make_spec(sizes=sizes, factored=factored)
    context, inputs = world(spec, {"losses.cmpo.num_samples": 2000})
    prior = Prior(context).prepare(**picked(inputs, *PRIOR))
    latent, log_probs = prior["prior_latent_BTH"][:1, :2], prior["prior_log_probs_BTA"][:1, :2]
    written = PriorSamples(context).prepare(
        prior_latent_BTH=latent, prior_log_probs_BTA=log_probs, actions_BT=inputs["actions_BT"][:1, :2]
    )
    columns = written["prior_actions_BTN"]
    assert columns.shape == (1, 2, 2000, len(sizes))
    for t in range(2):
        drawn = torch.bincount(columns[0, t].flatten(), minlength=sum(sizes)) / 2000
        torch.testing.assert_close(drawn, log_probs[0, t].exp(), atol=0.05, rtol=0)  # 4 standard errors are 0.045
        for i in range(5):
            expected = one_step_q(context, latent[0, t], columns[0, t, i].tolist())
            torch.testing.assert_close(written["prior_sampled_q_BTN"][0, t, i], expected, atol=1e-4, rtol=1e-4)


def one_step_advantage(context: Context, latent: Tensor, columns: list[int]) -> Tensor:
    """The model's advantage for one latent and one action, the long way."""
    prior = context.prior
    return prior.codec.value(prior.model_value(prior.transition(latent.unsqueeze(0), torch.tensor([columns]))))[0]


SIGMA = torch.tensor(0.3)


@pytest.mark.parametrize("head", ["scalar", "categorical"])
def test_q_of_a_model_of_advantages_is_the_states_value_and_sigma_times_the_advantage(head: str) -> None:
    context, inputs = world(make_spec(value_head=head))
    prior = Prior(context).prepare(**picked(inputs, *PRIOR))
    latent, value = prior["prior_latent_BTH"], prior["prior_value_BT1"]
    read = {"prior_latent_BTH": latent, "prior_value_BT1": value, "sigma": SIGMA, "actions_BT": inputs["actions_BT"]}
    q = AdvantageQ(context).prepare(**read)["prior_q_BTA"]
    for b, t, a in np.ndindex(5, 8, 3):
        expected = value[b, t] + 0.3 * one_step_advantage(context, latent[b, t], [a])
        torch.testing.assert_close(q[b, t, a], expected, atol=1e-4, rtol=1e-4)


def test_sampled_and_taken_actions_of_a_model_of_advantages_have_the_same_q() -> None:
    context, inputs = world(make_spec())
    prior = Prior(context).prepare(**picked(inputs, *PRIOR))
    latent, value = prior["prior_latent_BTH"], prior["prior_value_BT1"]
    read = {"prior_latent_BTH": latent, "prior_value_BT1": value, "sigma": SIGMA, "actions_BT": inputs["actions_BT"]}
    q = AdvantageQ(context).prepare(**read)["prior_q_BTA"]
    written = AdvantageSamples(context).prepare(**read, prior_log_probs_BTA=prior["prior_log_probs_BTA"])
    torch.testing.assert_close(written["prior_sampled_q_BTN"], q.gather(-1, written["prior_actions_BTN"].squeeze(-1)))
    taken = q.gather(-1, inputs["actions_BT"].long().unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(written["prior_taken_q_BT"], taken)


def test_the_taken_actions_q_is_that_of_every_action() -> None:
    context, inputs = world(make_spec())
    prior = Prior(context).prepare(**picked(inputs, *PRIOR))
    read = {"prior_latent_BTH": prior["prior_latent_BTH"], "actions_BT": inputs["actions_BT"]}
    q = PriorQ(context).prepare(**read)["prior_q_BTA"]
    written = PriorSamples(context).prepare(**read, prior_log_probs_BTA=prior["prior_log_probs_BTA"])
    taken = q.gather(-1, inputs["actions_BT"].long().unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(written["prior_taken_q_BT"], taken)
