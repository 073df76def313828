"""What CMPO promises whatever the prior and the advantages are (Hessel et al. 2021, section 3.2 and theorem 4.1)."""

from __future__ import annotations

from math import exp, tanh

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from learner.advantage_scale import AdvantageScale
from learner.losses.policy_improvement import clipped_mpo_policy, entropy, kl_divergence
from learner.ranks.reduce import OneRank
from protocol.data.trajectory import Array
from tests.learner import oracles

SLACK = 1e-12
ACTIONS = st.integers(2, 9)
CLIP = st.floats(0.01, 4)
SEED = st.integers(0, 2**32 - 1)


def drawn(seed: int, actions: int, scale: float) -> tuple[Tensor, Tensor]:
    """A prior's log-probabilities, from near-even to near-deterministic, and advantages from tiny to far beyond the clip."""
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(size=(1, 1, actions)) * rng.choice([0.1, 1, 5]))
    return logits.log_softmax(-1), torch.from_numpy(rng.normal(size=(1, 1, actions)) * scale)


@settings(max_examples=100, deadline=None)
@given(SEED, ACTIONS, st.sampled_from([0.01, 1.0, 100.0]), CLIP)
def test_the_step_is_bounded_by_the_clip_and_goes_uphill(seed: int, actions: int, scale: float, clip: float) -> None:
    prior, advantage = drawn(seed, actions, scale)
    target = clipped_mpo_policy(prior, advantage, clip=clip)
    assert target.sum().item() == pytest.approx(1)
    assert 0.5 * (target - prior.exp()).abs().sum().item() <= tanh(clip / 2) + SLACK
    assert kl_divergence(target, prior, entropy(target)).item() <= clip**2 / 2 + SLACK
    cut = advantage.clamp(-clip, clip)
    assert (target * cut).sum().item() >= (prior.exp() * cut).sum().item() - SLACK
    assert (target * advantage).sum().item() >= (prior.exp() * advantage).sum().item() - SLACK * scale


@pytest.mark.parametrize("clip", [0.25, 1.0, 3.0])
def test_two_actions_with_large_opposite_advantages_reach_the_bound(clip: float) -> None:
    # p e^c / (p e^c + (1 - p) e^-c) - p is largest at p = 1 / (1 + e^c), where it is tanh(c / 2); c = 1: 0.462117.
    p = 1 / (1 + exp(clip))
    target = clipped_mpo_policy(
        torch.tensor([[[p, 1 - p]]], dtype=torch.float64).log(), torch.tensor([[[9.0, -9.0]]]), clip=clip
    )
    assert target[0, 0, 0].item() - p == pytest.approx(tanh(clip / 2), abs=1e-12)
    assert tanh(0.5) == pytest.approx(0.462117, abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(SEED, ACTIONS, CLIP)
def test_a_better_action_gains_at_least_as_much(seed: int, actions: int, clip: float) -> None:
    prior, advantage = drawn(seed, actions, 1.0)
    gain = (clipped_mpo_policy(prior, advantage, clip=clip).log() - prior)[0, 0]
    ordered = gain[advantage[0, 0].argsort()]
    assert (ordered.diff() >= -SLACK).all()


@settings(max_examples=50, deadline=None)
@given(SEED, ACTIONS, st.floats(-50, 50), CLIP)
def test_an_advantage_that_is_the_same_for_all_actions_gives_the_prior(
    seed: int, actions: int, advantage: float, clip: float
) -> None:
    prior, _ = drawn(seed, actions, 1.0)
    target = clipped_mpo_policy(prior, torch.full_like(prior, advantage), clip=clip)
    torch.testing.assert_close(target, prior.exp(), atol=1e-14, rtol=1e-12)


@settings(max_examples=50, deadline=None)
@given(SEED, ACTIONS, CLIP)
def test_an_advantage_that_differs_by_action_moves_the_target_and_its_gradient_is_not_0(
    seed: int, actions: int, clip: float
) -> None:
    prior, _ = drawn(seed, actions, 1.0)
    advantage = torch.zeros_like(prior)
    advantage[..., 0] = 2 * clip
    target = clipped_mpo_policy(prior, advantage, clip=clip)
    assert target[0, 0, 0] > prior.exp()[0, 0, 0]
    logits = prior.clone().requires_grad_()
    torch.autograd.backward(kl_divergence(target, logits.log_softmax(-1), entropy(target)).sum())
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, prior.exp() - target, atol=1e-12, rtol=0)
    assert logits.grad.abs().max() > 0


@settings(max_examples=30, deadline=None)
@given(SEED, ACTIONS)
def test_without_a_clip_to_speak_of_the_target_is_the_prior(seed: int, actions: int) -> None:
    prior, advantage = drawn(seed, actions, 1.0)
    torch.testing.assert_close(clipped_mpo_policy(prior, advantage, clip=1e-9), prior.exp(), atol=1e-8, rtol=0)


def test_an_action_that_the_prior_never_takes_is_never_taken() -> None:
    prior = torch.tensor([[[0.5, 0.5, 0.0]]]).log()
    target = clipped_mpo_policy(prior, torch.tensor([[[0.0, 0.0, 100.0]]]), clip=5.0)
    assert target.tolist() == [[[0.5, 0.5, 0.0]]]


@settings(max_examples=40, deadline=None)
@given(SEED, st.floats(1e-3, 1e3))
def test_the_scale_of_rewards_does_not_matter_once_sigma_is_estimated(seed: int, scale: float) -> None:
    # Returns, values and q are all in units of reward; sigma is estimated of the scaled ones.
    rng = np.random.default_rng(seed)
    errors, q_minus_v = torch.from_numpy(rng.normal(size=(4, 6))), torch.from_numpy(rng.normal(size=(1, 1, 5)))
    prior, _ = drawn(seed, 5, 1.0)
    targets = []
    for factor in (1.0, scale):
        running = AdvantageScale(0.99, 1e-12, OneRank())
        for _ in range(3):
            sigma = running.update(factor * errors, torch.ones(4, 6, dtype=torch.bool))
        targets.append(clipped_mpo_policy(prior, factor * q_minus_v / sigma))
    torch.testing.assert_close(*targets, atol=1e-6, rtol=0)


@settings(max_examples=30, deadline=None)
@given(SEED, CLIP)
def test_the_bound_holds_for_each_factor_of_a_factored_action(seed: int, clip: float) -> None:
    rng = np.random.default_rng(seed)
    sizes = (2, 4, 3)
    prior = torch.cat([torch.from_numpy(rng.normal(size=(1, 1, n))).log_softmax(-1) for n in sizes], -1)
    target = clipped_mpo_policy(prior, torch.from_numpy(10 * rng.normal(size=(1, 1, 9))), sizes, clip=clip)
    for tilted, before in zip(*(torch.split(p, list(sizes), -1) for p in (target, prior.exp())), strict=True):
        assert tilted.sum().item() == pytest.approx(1)
        assert 0.5 * (tilted - before).abs().sum().item() <= tanh(clip / 2) + SLACK


def policy_values(policy: Array, rewards: Array, moves: Array, gamma: float) -> Array:
    """V of a policy in a tabular MDP, solved exactly: (I - gamma P_pi) V = r_pi."""
    mean_moves = np.einsum("sa,san->sn", policy, moves)
    return np.linalg.solve(np.eye(len(policy)) - gamma * mean_moves, (policy * rewards).sum(-1))


@pytest.mark.parametrize("seed", range(4))
def test_with_exact_values_repeated_steps_improve_a_tabular_policy_in_every_state(seed: int) -> None:
    rng = np.random.default_rng(seed)
    states, actions, gamma = 6, 4, 0.9
    rewards = rng.normal(size=(states, actions))
    moves = oracles.softmax(3 * rng.normal(size=(states, actions, states)))
    policy = np.full((states, actions), 1 / actions)
    values = policy_values(policy, rewards, moves, gamma)
    for _ in range(300):
        q = rewards + gamma * moves @ values
        advantage = torch.from_numpy(q - values[:, None]).unsqueeze(0)
        policy = clipped_mpo_policy(torch.from_numpy(policy).log().unsqueeze(0), advantage)[0].numpy()
        improved = policy_values(policy, rewards, moves, gamma)
        assert (improved >= values - 1e-10).all()
        values = improved
    best = np.zeros(states)
    for _ in range(1000):
        best = (rewards + gamma * moves @ best).max(-1)
    np.testing.assert_allclose(values, best, atol=0.05)
