"""GAE, V-trace and Retrace against explicit sums, numbers worked by hand, and poison where nothing may be read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from learner.nodes.return_estimators import Returns, carried_back, gae_vtrace, retrace
from learner.nodes.returns import used_steps
from protocol.data.trajectory import Array
from tests.learner import oracles

POISON = (float("nan"), 1e9)


def random_case(seed: int, *, size: int = 5, steps: int = 9, on_policy: bool = False) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    kind = rng.choice(4, (size, steps), p=(0.65, 0.15, 0.15, 0.05))
    return {
        "rewards": rng.normal(size=(size, steps)),
        "terminated": (kind == 1) | (kind == 3),
        "truncated": (kind == 2) | (kind == 3),
        "values": rng.normal(size=(size, steps + 1)),
        "final_values": rng.normal(size=(size, steps)),
        "ratios": np.ones((size, steps)) if on_policy else np.exp(rng.normal(size=(size, steps))),
    }


def run_gae(case: dict[str, Array], **coefficients: float) -> Returns:
    tensors = {name: torch.from_numpy(array) for name, array in case.items()}
    return gae_vtrace(
        rewards_BT=tensors["rewards"],
        terminated_BT=tensors["terminated"],
        truncated_BT=tensors["truncated"],
        value_BT1=tensors["values"],
        final_value_BT=tensors["final_values"],
        importance_ratio_BT=tensors["ratios"],
        **coefficients,
    )


def row(*numbers: float) -> Array:
    return np.array([numbers], np.float64)


def flags(*steps: int, length: int) -> Array:
    return np.array([[t in steps for t in range(length)]])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.floats(0, 1), st.floats(0.2, 3), st.floats(0.2, 3))
def test_gae_with_vtrace_is_the_papers_sum(seed: int, gamma: float, lam: float, rho_clip: float, c_clip: float) -> None:
    case = random_case(seed)
    coefficients: dict[str, Any] = {"gamma": gamma, "gae_lambda": lam, "rho_clip": rho_clip, "c_clip": c_clip}
    returns = run_gae(case, **coefficients)
    advantages, targets = oracles.vtrace_targets(**case, **coefficients)
    np.testing.assert_allclose(returns.advantage.numpy(), advantages, atol=1e-12)
    np.testing.assert_allclose(returns.value_target.numpy(), targets, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_on_policy_the_target_is_the_advantage_plus_the_value(seed: int) -> None:
    case = random_case(seed, on_policy=True)
    returns = run_gae(case, gamma=0.97, gae_lambda=0.9, rho_clip=1.0, c_clip=1.0)
    np.testing.assert_allclose(
        returns.value_target.numpy(), returns.advantage.numpy() + case["values"][:, :-1], atol=1e-12, rtol=0
    )


def test_gae_of_two_steps_by_hand() -> None:
    # gamma 0.5, lambda 0.5. V = 1, 2, 4; r = 3, 5.
    # delta_1 = 5 + 0.5 * 4 - 2 = 5; delta_0 = 3 + 0.5 * 2 - 1 = 3; A_0 = 3 + 0.25 * 5 = 4.25; R = A + V.
    case = {
        "rewards": row(3, 5),
        "terminated": flags(length=2),
        "truncated": flags(length=2),
        "values": row(1, 2, 4),
        "final_values": row(0, 0),
        "ratios": row(1, 1),
    }
    returns = run_gae(case, gamma=0.5, gae_lambda=0.5, rho_clip=1.0, c_clip=1.0)
    assert returns.advantage.tolist() == [[4.25, 5.0]]
    assert returns.value_target.tolist() == [[5.25, 7.0]]


def test_a_terminated_step_has_no_future_and_a_truncated_one_its_final_observations() -> None:
    # gamma 0.5, lambda 1, V = 1 everywhere. Step 0 is cut, its final observation is worth 10: delta_0 = 2 + 0.5 * 10 - 1 = 6.
    # Step 1 terminates: delta_1 = 3 - 1 = 2. Step 2 goes on to V = 1: delta_2 = 4 + 0.5 - 1 = 3.5. No end is stepped over.
    case = {
        "rewards": row(2, 3, 4),
        "terminated": flags(1, length=3),
        "truncated": flags(0, length=3),
        "values": row(1, 1, 1, 1),
        "final_values": row(10, 77, 77),
        "ratios": row(1, 1, 1),
    }
    returns = run_gae(case, gamma=0.5, gae_lambda=1.0, rho_clip=1.0, c_clip=1.0)
    assert returns.advantage.tolist() == [[6.0, 2.0, 3.5]]
    assert returns.value_target.tolist() == [[7.0, 3.0, 4.5]]


def test_a_step_that_is_both_terminated_and_truncated_has_no_future() -> None:
    # delta_0 = 2 - 1: the final observation's 10 does not count.
    case = {
        "rewards": row(2),
        "terminated": flags(0, length=1),
        "truncated": flags(0, length=1),
        "values": row(1, 1),
        "final_values": row(10),
        "ratios": row(1),
    }
    assert run_gae(case, gamma=0.5, gae_lambda=1.0, rho_clip=1.0, c_clip=1.0).advantage.tolist() == [[1.0]]


def test_the_ratio_at_the_next_step_is_counted_once() -> None:
    # Values 0, gamma = lambda = 1, rewards 0 then 1, the episode ends. The second action is taken with pi / mu = 0.4, the first
    # with 1. Of the policy's own return 0.4 * 1 is seen: R_1 = 0.4 and R_0 = 1 * 0.4. With c_{t+1} in the place of c_t R_0
    # would be 1 * 0.4 * 0.4 = 0.16.
    case = {
        "rewards": row(0, 1),
        "terminated": flags(1, length=2),
        "truncated": flags(length=2),
        "values": row(0, 0, 0),
        "final_values": row(0, 0),
        "ratios": row(1, 0.4),
    }
    returns = run_gae(case, gamma=1.0, gae_lambda=1.0, rho_clip=1.0, c_clip=1.0)
    assert returns.value_target.tolist() == [[0.4, 0.4]]


def test_vtrace_is_unbiased_where_nothing_is_cut() -> None:
    # Two actions at the second step, drawn by mu = (1/2, 1/2), judged for pi = (1/5, 4/5), rewards (1, 0). Nothing is cut at 2:
    # the mean of R_0 over mu's draws is 1/2 * 0.4 * 1 + 1/2 * 1.6 * 0 = 0.2 = the value under pi.
    targets = []
    for ratio, reward in ((0.4, 1.0), (1.6, 0.0)):
        case = {
            "rewards": row(0, reward),
            "terminated": flags(1, length=2),
            "truncated": flags(length=2),
            "values": row(0, 0, 0),
            "final_values": row(0, 0),
            "ratios": row(1, ratio),
        }
        returns = run_gae(case, gamma=1.0, gae_lambda=1.0, rho_clip=2.0, c_clip=2.0)
        targets.append(float(returns.value_target[0, 0]))
    assert sum(targets) / 2 == pytest.approx(0.2, abs=1e-12)


def test_the_advantage_is_not_weighed_by_its_own_ratio() -> None:
    # A bandit with pi / mu = 0.4 and reward 1: the surrogate brings the 0.4, so the advantage is 1; the value target is 0.4.
    case = {
        "rewards": row(1),
        "terminated": flags(0, length=1),
        "truncated": flags(length=1),
        "values": row(0, 0),
        "final_values": row(0),
        "ratios": row(0.4),
    }
    returns = run_gae(case, gamma=1.0, gae_lambda=1.0, rho_clip=1.0, c_clip=1.0)
    assert (returns.advantage.item(), returns.value_target.item()) == (1.0, 0.4)


@pytest.mark.parametrize("poison", POISON)
def test_gae_reads_nothing_across_an_end(poison: float) -> None:
    # Row 0 terminates at 1, row 1 is cut at 1; all that lies behind is poison, and so is every final value but row 1's.
    case = random_case(0, size=2, steps=4)
    case["terminated"], case["truncated"] = np.zeros((2, 4), bool), np.zeros((2, 4), bool)
    case["terminated"][0, 1] = case["truncated"][1, 1] = True
    clean = run_gae(case, gamma=0.9, gae_lambda=0.8, rho_clip=1.0, c_clip=1.0)
    for name in ("rewards", "values", "ratios"):
        case[name][:, 2:] = poison
    case["final_values"][0] = poison
    case["final_values"][1, [0, 2, 3]] = poison
    poisoned = run_gae(case, gamma=0.9, gae_lambda=0.8, rho_clip=1.0, c_clip=1.0)
    for before, after in zip(clean, poisoned, strict=True):
        assert torch.equal(before[:, :2], after[:, :2])


def run_retrace(case: dict[str, Array], **coefficients: float) -> Tensor:
    tensors = {name: torch.from_numpy(array) for name, array in case.items()}
    return retrace(
        rewards_BT=tensors["rewards"],
        terminated_BT=tensors["terminated"],
        truncated_BT=tensors["truncated"],
        q_taken_BT=tensors["q_taken"],
        expected_q_BT=tensors["expected_q"],
        final_value_BT=tensors["final_values"],
        bootstrap_value_B=tensors["bootstrap"],
        importance_ratio_BT=tensors["ratios"],
        **coefficients,
    )


def retrace_case(seed: int, **sizes: Any) -> dict[str, Array]:
    case = random_case(seed, **sizes)
    rng = np.random.default_rng(seed + 1)
    values = case.pop("values")
    case |= {"q_taken": rng.normal(size=case["rewards"].shape), "expected_q": values[:, :-1], "bootstrap": values[:, -1]}
    return case


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.floats(0, 1))
def test_retrace_is_the_papers_sum(seed: int, gamma: float, lam: float) -> None:
    case = retrace_case(seed)
    expected = oracles.retrace_targets(**case, gamma=gamma, retrace_lambda=lam)
    np.testing.assert_allclose(run_retrace(case, gamma=gamma, retrace_lambda=lam).numpy(), expected, atol=1e-12)


def test_retrace_of_two_steps_by_hand() -> None:
    # gamma 0.5, lambda 0.5; the second step's ratio 4 is cut to 1, so c_1 = 0.5.
    # G_1 = 2 + 0.5 * 8 = 6. G_0 = 1 + 0.5 * (E q_1 + 0.5 * (G_1 - q_1)) = 1 + 0.5 * (3 + 0.5 * (6 - 4)) = 3.
    case = {
        "rewards": row(1, 2),
        "terminated": flags(length=2),
        "truncated": flags(length=2),
        "q_taken": row(99, 4),
        "expected_q": row(99, 3),
        "final_values": row(0, 0),
        "bootstrap": np.array([8.0]),
        "ratios": row(99, 4),
    }
    assert run_retrace(case, gamma=0.5, retrace_lambda=0.5).tolist() == [[3.0, 6.0]]


@pytest.mark.parametrize("poison", POISON)
def test_retrace_reads_nothing_across_an_end(poison: float) -> None:
    case = retrace_case(0, size=2, steps=4)
    case["terminated"], case["truncated"] = np.zeros((2, 4), bool), np.zeros((2, 4), bool)
    case["terminated"][0, 1] = case["truncated"][1, 1] = True
    clean = run_retrace(case, gamma=0.9, retrace_lambda=0.8)
    for name in ("rewards", "q_taken", "expected_q", "ratios"):
        case[name][:, 2:] = poison
    case["bootstrap"][:] = poison
    case["final_values"][0] = poison
    case["final_values"][1, [0, 2, 3]] = poison
    assert torch.equal(run_retrace(case, gamma=0.9, retrace_lambda=0.8)[:, :2], clean[:, :2])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70), st.integers(0, 10_000))
def test_what_is_carried_back_by_doubling_is_the_recursion(steps: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    own, decay, ends = rng.normal(size=(2, steps)), rng.uniform(0, 1.2, (2, steps)), rng.random((2, steps)) < 0.1
    expected, following = np.zeros((2, steps)), np.zeros(2)
    for t in range(steps - 1, -1, -1):
        following = own[:, t] + decay[:, t] * np.where(ends[:, t], 0.0, following)
        expected[:, t] = following
    found = carried_back(torch.from_numpy(own), torch.from_numpy(decay), torch.from_numpy(ends))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-9)


def test_nan_is_carried_back_to_the_episodes_beginning_and_no_further() -> None:
    own = torch.tensor([[1.0, 2.0, 3.0, float("nan"), 5.0]])
    ends = torch.tensor([[False, True, False, False, False]])
    found = carried_back(own, torch.full((1, 5), 0.5), ends)
    assert found.isnan().tolist() == [[False, False, True, True, False]]
    assert found[0, :2].tolist() == [2.0, 2.0]


def test_the_steps_that_a_return_uses_by_hand() -> None:
    ratio = torch.tensor([[1.0, 0.5, 1.0, 0.25], [0.5, 1.0, 1.0, 1.0]])
    ends = torch.from_numpy(np.concatenate([flags(length=4), flags(1, length=4)]))
    mask = torch.tensor([[True] * 4, [True, True, True, False]])
    found = used_steps(0.5, ratio, ends, torch.tensor([True, False]), mask)
    # Row 0: 1, 1 + 0.5 * 1, 1 + 0.25 * 1.5 and 1 + 0.5 * 1.375, from its last step to its first.
    assert found["steps"].value[found["steps"].mask].tolist() == [1.6875, 1.375, 1.5, 1.0]
    # Row 1 ends an episode at its second step, and its last step is not valid.
    assert found["steps_replayed"].value[found["steps_replayed"].mask].tolist() == [1.25, 1.0, 1.5]
    on_policy = found["steps_on_policy"]
    assert on_policy.value[on_policy.mask].tolist() == [1.875, 1.75, 1.5, 1.0, 1.5, 1.0, 1.5]
