"""The dynamics loss: targets, the chain that pins every index, gradients that flow and gradients that must not."""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from agent.model import AgentModel, ModelNeeds
from learner.loss import Statistic, Term
from learner.losses.dynamics import AdvantageDynamics, BootstrapDynamics, Dynamics
from learner.nodes.masks import unroll_masks
from learner.plan import make_plan
from tests.learner import oracles
from tests.learner.worlds import make_context, make_spec, make_trainer

POISON = (float("nan"), 1e9)


def make_loss(unroll_steps: int = 3, **changes: float) -> Dynamics:
    paths = {f"losses.dynamics.{name}": value for name, value in changes.items()}
    return Dynamics(make_context(make_trainer("full", {"losses.dynamics.unroll_steps": unroll_steps} | paths)))


def make_bootstrap(unroll_steps: int) -> BootstrapDynamics:
    return BootstrapDynamics(make_context(make_trainer("full", {"losses.dynamics.unroll_steps": unroll_steps})))


def flags(*steps: int, length: int) -> Tensor:
    return torch.tensor([[t in steps for t in range(length)]])


def test_targets_of_a_short_trajectory_by_hand() -> None:
    # T = 4, K = 2, step 1 terminates. Rewards 1, 2, 3, 4; returns 10, 20, 30, 40.
    # t=0: rewards 1, 2; returns R_1 = 20, then 0 for ever. t=1: reward 2; return 0. t=2: rewards 3, 4; R_3 = 40. t=3: reward 4.
    written = make_loss(2).prepare(
        rewards_BT=torch.tensor([[1.0, 2, 3, 4]]),
        terminated_BT=flags(1, length=4),
        truncated_BT=flags(length=4),
        value_target_BT=torch.tensor([[10.0, 20, 30, 40]]),
        mask_BT=torch.ones(1, 4, dtype=torch.bool),
    )
    assert written["model_reward_target_BTK"].tolist() == [[[1, 2], [2, 0], [3, 4], [4, 0]]]
    assert written["model_reward_mask_BTK"].tolist() == [[[True, True], [True, False], [True, True], [True, False]]]
    assert written["model_value_target_BTK"].tolist() == [[[20, 0], [0, 0], [40, 0], [0, 0]]]
    assert written["model_value_mask_BTK"].tolist() == [[[True, True], [True, False], [True, False], [False, False]]]


@pytest.mark.parametrize("seed", range(5))
def test_targets_are_the_trajectorys_own_numbers_wherever_they_count(seed: int) -> None:
    rng = np.random.default_rng(seed)
    steps, k_steps = 7, 4
    terminated, truncated = rng.random((3, steps)) < 0.2, rng.random((3, steps)) < 0.15
    rewards, values = rng.normal(size=(3, steps)), rng.normal(size=(3, steps))
    written = make_loss(k_steps).prepare(
        rewards_BT=torch.from_numpy(rewards),
        terminated_BT=torch.from_numpy(terminated),
        truncated_BT=torch.from_numpy(truncated),
        value_target_BT=torch.from_numpy(values),
        mask_BT=torch.ones(3, steps, dtype=torch.bool),
    )
    truth = oracles.unroll_truth(terminated, truncated, np.ones((3, steps), bool), k_steps)
    for b, t, k in np.ndindex(3, steps, k_steps):
        reward = rewards[b, t + k] if truth["reward"][b, t, k] else 0
        value = values[b, t + k + 1] if truth["policy"][b, t, k] else 0
        assert written["model_reward_target_BTK"][b, t, k].item() == reward
        assert written["model_value_target_BTK"][b, t, k].item() == value


def test_bootstrapped_targets_by_hand() -> None:
    # T = 5, K = 2. Step 1 terminates, step 3 is truncated, and its final observation is worth 70. V of s_0..s_5 is 10..15.
    # After step 0: V(s_1) = 11, after step 1: 0, after step 2: V(s_3) = 13, after step 3: 70, after step 4: V(s_5) = 15.
    written = make_bootstrap(2).prepare(
        rewards_BT=torch.tensor([[1.0, 2, 3, 4, 5]]),
        terminated_BT=flags(1, length=5),
        truncated_BT=flags(3, length=5),
        prior_value_BT1=torch.tensor([[10.0, 11, 12, 13, 14, 15]]),
        prior_final_value_BT=torch.tensor([[0.0, 0, 0, 70, 0]]),
        mask_BT=torch.ones(1, 5, dtype=torch.bool),
    )
    assert written["model_value_target_BTK"].tolist() == [[[11, 0], [0, 0], [13, 70], [70, 0], [15, 0]]]
    counted = [[[True, True], [True, False], [True, True], [True, False], [True, False]]]
    assert written["model_value_mask_BTK"].tolist() == written["model_reward_mask_BTK"].tolist() == counted
    assert written["model_reward_target_BTK"].tolist() == [[[1, 2], [2, 0], [3, 4], [4, 0], [5, 0]]]


@pytest.mark.parametrize("seed", range(3))
def test_bootstrapped_targets_are_the_priors_values_of_the_states_that_are_reached(seed: int) -> None:
    rng = np.random.default_rng(seed)
    steps, k_steps = 7, 4
    ends, cut, mask = rng.random((3, steps)) < 0.3, rng.random((3, steps)) < 0.5, rng.random((3, steps)) < 0.9
    terminated, truncated = ends & ~cut, ends & cut
    values, finals = rng.normal(size=(3, steps + 1)), rng.normal(size=(3, steps))
    values[:, :-1][~mask] = math.nan
    written = make_bootstrap(k_steps).prepare(
        rewards_BT=torch.from_numpy(rng.normal(size=(3, steps))),
        terminated_BT=torch.from_numpy(terminated),
        truncated_BT=torch.from_numpy(truncated),
        prior_value_BT1=torch.from_numpy(values),
        prior_final_value_BT=torch.from_numpy(finals),
        mask_BT=torch.from_numpy(mask),
    )
    truth = oracles.unroll_truth(terminated, truncated, mask, k_steps)["reward"]
    for b, t, k in np.ndindex(3, steps, k_steps):
        last = t + k  # the step whose action leads to the state
        known = truth[b, t, k] and (ends[b, last] or last + 1 == steps or mask[b, last + 1])
        assert written["model_value_mask_BTK"][b, t, k].item() == known
        value = 0.0
        if known and not terminated[b, last]:
            value = finals[b, last] if truncated[b, last] else values[b, last + 1]
        assert written["model_value_target_BTK"][b, t, k].item() == value


def test_advantage_targets_by_hand() -> None:
    # T = 4, K = 2. Step 1 terminates; the advantage of the action at t + k - 1 is the target. Step 3's is known by V(s_4).
    loss = AdvantageDynamics(make_context(make_trainer("full", {"losses.dynamics.unroll_steps": 2})))
    written = loss.prepare(
        rewards_BT=torch.tensor([[1.0, 2, 3, 4]]),
        terminated_BT=flags(1, length=4),
        truncated_BT=flags(length=4),
        one_step_advantage_BT=torch.tensor([[0.1, 0.2, 0.3, 0.4]]),
        mask_BT=torch.ones(1, 4, dtype=torch.bool),
    )
    counted = [[[True, True], [True, False], [True, True], [True, False]]]
    assert written["model_value_mask_BTK"].tolist() == written["model_reward_mask_BTK"].tolist() == counted
    expected = torch.tensor([[[0.1, 0.2], [0.2, 0], [0.3, 0.4], [0.4, 0]]])
    assert torch.equal(written["model_value_target_BTK"], expected)
    assert written["model_reward_target_BTK"].tolist() == [[[1, 2], [2, 0], [3, 4], [4, 0]]]


def test_an_advantage_into_an_absent_step_has_no_target() -> None:
    # The agent is absent from step 2 on: what followed step 1 is not known.
    loss = AdvantageDynamics(make_context(make_trainer("full", {"losses.dynamics.unroll_steps": 1})))
    written = loss.prepare(
        rewards_BT=torch.ones(1, 4),
        terminated_BT=flags(length=4),
        truncated_BT=flags(length=4),
        one_step_advantage_BT=torch.tensor([[0.1, math.nan, math.nan, math.nan]]),
        mask_BT=torch.tensor([[True, True, False, False]]),
    )
    assert written["model_value_mask_BTK"].flatten().tolist() == [True, False, False, False]
    assert torch.equal(written["model_value_target_BTK"].flatten(), torch.tensor([0.1, 0, 0, 0]))
    assert written["model_reward_mask_BTK"].flatten().tolist() == [True, True, False, False]


@pytest.mark.parametrize("end", ["terminated_BT", "truncated_BT"])
def test_an_advantage_that_ends_an_episode_is_known_if_the_agent_is_absent_afterwards(end: str) -> None:
    loss = AdvantageDynamics(make_context(make_trainer("full", {"losses.dynamics.unroll_steps": 1})))
    ends = {"terminated_BT": flags(length=4), "truncated_BT": flags(length=4)} | {end: flags(1, length=4)}
    written = loss.prepare(
        rewards_BT=torch.ones(1, 4),
        one_step_advantage_BT=torch.tensor([[0.1, 0.2, math.nan, math.nan]]),
        mask_BT=torch.tensor([[True, True, False, False]]),
        **ends,
    )
    assert written["model_value_mask_BTK"].flatten().tolist() == [True, True, False, False]
    assert torch.equal(written["model_value_target_BTK"].flatten(), torch.tensor([0.1, 0.2, 0, 0]))


def test_the_setting_chooses_the_values_target() -> None:
    spec = make_spec()
    classes = {"return": Dynamics, "prior_bootstrap": BootstrapDynamics, "advantage": AdvantageDynamics}
    for target, expected in classes.items():
        trainer = make_trainer("full", {"losses.dynamics.value_target": target})
        assert expected in make_plan(trainer, spec.settings, spec.spaces.action).nodes


class Chain(nn.Module):
    """The exact model of a chain: the state is a number, an action is what it goes up by."""

    def unroll(self, latent: Tensor, columns: Tensor, gradient_scale: float) -> Tensor:
        assert gradient_scale == ModelNeeds().gradient_scale
        return latent + columns.float().cumsum(0)


def test_an_exact_model_of_a_chain_has_no_loss_at_any_step() -> None:
    # The state after a step is the state's number plus the action; the reward is the number of the state that is reached, the
    # return ten times the number of the state that one stands in. Any index off by one shows as a loss above 0.
    rng = np.random.default_rng(3)
    size, steps, model_steps = 4, 9, 4
    model = AgentModel(make_spec(sizes=(5,)))
    model.transition = Chain()  # type: ignore[assignment]
    model.reward_and_value_raw = lambda advanced: (advanced, 10 * advanced)  # type: ignore[method-assign]
    actions = torch.from_numpy(rng.integers(1, 5, (size, steps)))
    ends = torch.from_numpy(rng.random((size, steps)) < 0.2)
    terminated = ends & torch.from_numpy(rng.random((size, steps)) < 0.5)
    state, reward = torch.zeros(size, steps), torch.zeros(size, steps)
    for b in range(size):
        now = 100.0 * (b + 1)
        for t in range(steps):
            state[b, t] = now
            now += float(actions[b, t])
            reward[b, t] = now
            if ends[b, t]:
                now = 1000.0 * (t + 1)
    outputs = model.unroll(state.unsqueeze(-1), actions, ModelNeeds(model_steps, 0, rewards_and_values=True))
    loss = make_loss(model_steps)
    mask = torch.ones(size, steps, dtype=torch.bool)
    written = loss.prepare(
        rewards_BT=reward, terminated_BT=terminated, truncated_BT=ends & ~terminated, value_target_BT=10 * state, mask_BT=mask
    )
    masks = unroll_masks(terminated, ends & ~terminated, mask, model_steps)
    value_raw = outputs["model_value_raw_BTK"].masked_fill(masks.absorbing.unsqueeze(-1), 0.0)  # a chain has no absorbing state
    terms = loss.compute(model_reward_raw_BTK=outputs["model_reward_raw_BTK"], model_value_raw_BTK=value_raw, **written)
    for name in ("reward", "returns"):
        entry = terms[name]
        assert entry.mask.any(0).any(0).all(), "every model step counts somewhere"
        assert entry.value[entry.mask].abs().max() == 0
        assert (entry.value[~entry.mask] > 0).any(), "what is masked would have been wrong"


def computed(loss: Dynamics, seed: int = 0) -> tuple[dict[str, Term | Statistic], Tensor, Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    terminated, truncated = torch.rand(3, 6, generator=generator) < 0.2, torch.rand(3, 6, generator=generator) < 0.2
    written = loss.prepare(
        rewards_BT=torch.randn(3, 6, generator=generator),
        terminated_BT=terminated,
        truncated_BT=truncated,
        value_target_BT=torch.randn(3, 6, generator=generator),
        mask_BT=torch.rand(3, 6, generator=generator) < 0.9,
    )
    steps = loss.settings.unroll_steps
    reward_raw = torch.randn(3, 6, steps, 1, generator=generator, requires_grad=True)
    value_raw = torch.randn(3, 6, steps, 1, generator=generator, requires_grad=True)
    terms = loss.compute(model_reward_raw_BTK=reward_raw, model_value_raw_BTK=value_raw, **written)
    return dict(terms), reward_raw, value_raw, cast("dict[str, Tensor]", written)


def test_a_scalar_heads_terms_are_half_the_squared_errors() -> None:
    terms, reward_raw, value_raw, written = computed(make_loss(returns_pred_coef=0.25, reward_pred_coef=0.5))
    expected = 0.5 * (reward_raw.squeeze(-1) - written["model_reward_target_BTK"]) ** 2
    torch.testing.assert_close(terms["reward"].value, expected)
    torch.testing.assert_close(terms["returns"].value, 0.5 * (value_raw.squeeze(-1) - written["model_value_target_BTK"]) ** 2)
    assert torch.equal(terms["reward"].mask, written["model_reward_mask_BTK"])
    assert torch.equal(terms["returns"].mask, written["model_value_mask_BTK"])
    returns, reward = cast("Term", terms["returns"]), cast("Term", terms["reward"])
    assert (returns.coef, reward.coef) == (0.25, 0.5)


def test_each_model_steps_part_and_the_used_fraction_are_reported() -> None:
    terms, _, _, written = computed(make_loss(2))
    for name, whole in (("returns", terms["returns"]), ("reward", terms["reward"])):
        for k in range(2):
            part = terms[f"{name}_{k + 1}"]
            assert torch.equal(part.value, whole.value[..., k])
            assert torch.equal(part.mask, whole.mask[..., k])
            assert not part.value.requires_grad
    used = terms["used_fraction"]
    assert used.mask.all()
    assert used.value.mean() == written["model_value_mask_BTK"].float().mean()


@pytest.mark.parametrize("poison", POISON)
def test_what_lies_behind_an_end_reaches_no_target(poison: float) -> None:
    # Row 0 ends at step 1, and of row 1 steps 2.. do not count: steps 0 and 1 of both see nothing of the poison.
    rewards, values = torch.randn(2, 5), torch.randn(2, 5)
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[1, 2:] = False
    terminated = torch.zeros(2, 5, dtype=torch.bool)
    terminated[0, 1] = True
    loss = make_loss(3)

    def targets(rewards: Tensor, values: Tensor) -> list[Tensor]:
        written = loss.prepare(
            rewards_BT=rewards,
            terminated_BT=terminated,
            truncated_BT=torch.zeros_like(terminated),
            value_target_BT=values,
            mask_BT=mask,
        )
        return [cast("Tensor", tensor)[:, :2] for tensor in written.values()]

    clean = targets(rewards, values)
    rewards[:, 2:], values[:, 2:] = poison, poison
    for before, after in zip(clean, targets(rewards, values), strict=True):
        assert torch.equal(before, after)
