"""The same numbers as rlax, DeepMind's own collection of these equations."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from agent.heads import nearest_bins, signed_hyperbolic, signed_parabolic
from learner.losses.ppo_actor import clipped_surrogate
from learner.nodes.return_estimators import Returns, gae_vtrace, retrace
from protocol.data.trajectory import Array

ROOT = Path(__file__).resolve().parents[3]
GAMMA, LAMBDA = 0.97, 0.9


def make_cases() -> dict[str, Array]:
    rng = np.random.default_rng(7)
    size, steps = 16, 12
    kind = rng.choice(3, (size, steps), p=(0.75, 0.15, 0.1))
    return {
        "gamma": np.array(GAMMA),
        "lambda": np.array(LAMBDA),
        "rewards": rng.normal(size=(size, steps)),
        "terminated": (kind == 1).astype(float),
        "truncated": (kind == 2).astype(float),
        "values": rng.normal(size=(size, steps + 1)),
        "final_values": rng.normal(size=(size, steps)),
        "q_taken": rng.normal(size=(size, steps)),
        "ratios": np.exp(rng.normal(size=(size, steps))),
        "numbers": np.concatenate([rng.uniform(-25, 25, 200), [-20.0, -0.5, 0.0, 0.5, 3.0, 20.0]]),
    }


CASES = make_cases()


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Array]:
    folder = tmp_path_factory.mktemp("rlax")
    np.savez(folder / "cases.npz", allow_pickle=False, **CASES)
    command = [sys.executable, "-m", "tests.learner.nodes.rlax_process", str(folder / "cases.npz"), str(folder / "answers.npz")]
    subprocess.run(command, cwd=ROOT, check=True, timeout=100, capture_output=True)
    with np.load(folder / "answers.npz") as loaded:
        return dict(loaded)


def tensor(name: str) -> torch.Tensor:
    return torch.from_numpy(CASES[name])


def our_returns(*, cut: bool, on_policy: bool) -> Returns:
    return gae_vtrace(
        rewards_BT=tensor("rewards"),
        terminated_BT=tensor("terminated").bool(),
        truncated_BT=tensor("truncated").bool() & cut,
        value_BT1=tensor("values"),
        final_value_BT=tensor("final_values"),
        importance_ratio_BT=torch.ones_like(tensor("ratios")) if on_policy else tensor("ratios"),
        gamma=GAMMA,
        gae_lambda=LAMBDA,
        rho_clip=1.0,
        c_clip=1.0,
    )


def test_on_policy_advantages_are_rlaxs_gae(answers: dict[str, Array]) -> None:
    ours = our_returns(cut=False, on_policy=True).advantage.numpy()
    np.testing.assert_allclose(ours, answers["gae"], atol=1e-12, rtol=0)


def test_off_policy_value_targets_are_rlaxs_vtrace(answers: dict[str, Array]) -> None:
    ours = our_returns(cut=True, on_policy=False).value_target.numpy()
    np.testing.assert_allclose(ours, answers["vtrace_errors"] + CASES["values"][:, :-1], atol=1e-12, rtol=0)


def test_off_policy_advantages_are_rlaxs_without_its_ratio(answers: dict[str, Array]) -> None:
    # rlax multiplies by the ratio, which PPO's surrogate brings here.
    ours = our_returns(cut=False, on_policy=False).advantage.numpy()
    np.testing.assert_allclose(ours * CASES["ratios"], answers["vtrace_advantages"], atol=1e-11, rtol=0)


def test_retrace_is_rlaxs(answers: dict[str, Array]) -> None:
    values = tensor("values")
    ours = retrace(
        rewards_BT=tensor("rewards"),
        terminated_BT=tensor("terminated").bool(),
        truncated_BT=tensor("truncated").bool(),
        q_taken_BT=tensor("q_taken"),
        expected_q_BT=values[:, :-1],
        final_value_BT=tensor("final_values"),
        bootstrap_value_B=values[:, -1],
        importance_ratio_BT=tensor("ratios"),
        gamma=GAMMA,
        retrace_lambda=LAMBDA,
    )
    np.testing.assert_allclose(ours.numpy(), answers["retrace"], atol=1e-12, rtol=0)


def test_the_clipped_surrogate_and_its_gradient_are_rlaxs(answers: dict[str, Array]) -> None:
    ratio = tensor("ratios").clone().requires_grad_()
    loss = clipped_surrogate(ratio, tensor("rewards"), 0.2)
    np.testing.assert_allclose(loss.detach().numpy(), answers["surrogate"], atol=1e-12, rtol=0)
    (gradient,) = torch.autograd.grad(loss.mean(), ratio)
    np.testing.assert_allclose(gradient.numpy().ravel(), answers["surrogate_gradient"], atol=1e-12, rtol=0)


def test_two_hot_probabilities_are_rlaxs(answers: dict[str, Array]) -> None:
    # rlax adds 1e-5 to a denominator, hence the tolerance.
    lower, upper_weight = nearest_bins(tensor("numbers"), 41, 20.0)
    ours = torch.zeros(len(lower), 41, dtype=torch.float64)
    ours.scatter_add_(-1, torch.stack([lower, lower + 1], -1), torch.stack([1 - upper_weight, upper_weight], -1))
    np.testing.assert_allclose(ours.numpy(), answers["two_hot"], atol=1e-5, rtol=0)


def test_the_squashing_of_returns_and_its_inverse_are_rlaxs(answers: dict[str, Array]) -> None:
    np.testing.assert_allclose(signed_hyperbolic(tensor("numbers")).numpy(), answers["signed_hyperbolic"], atol=1e-12, rtol=0)
    np.testing.assert_allclose(signed_parabolic(tensor("numbers")).numpy(), answers["signed_parabolic"], atol=1e-9, rtol=0)
