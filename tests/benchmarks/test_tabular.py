"""Small tasks with known answers: the answers themselves, the environment, and what the learner step learns of them."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.tabular import ACTIONS, ARMS, EPISODE_STEPS, GAMMA, STATES, TabularEnvironment, Task, train


@pytest.mark.parametrize("seed", range(3))
def test_policy_iteration_agrees_with_value_iteration(seed: int) -> None:
    task = Task.random(seed)
    values = np.zeros(STATES)
    for _ in range(500):
        values = task.q(values).max(-1)
    np.testing.assert_allclose(task.best(), values, atol=1e-9)


def test_values_of_a_policy_agree_with_sampled_returns() -> None:
    task, policy = Task.random(1), np.full((STATES, ACTIONS), 1 / ACTIONS)
    rng = np.random.default_rng(0)
    state, total, discount = np.zeros(4000, np.int64), np.zeros(4000), 1.0
    for _ in range(120):
        action = rng.integers(ACTIONS, size=len(state))
        total += discount * task.rewards[state, action]
        state = (task.moves[state, action].cumsum(-1) < rng.random((len(state), 1))).sum(-1).clip(max=STATES - 1)
        discount *= GAMMA
    assert total.mean() == pytest.approx(task.values(policy)[0], abs=4 * total.std() / len(total) ** 0.5)


def test_the_environment_moves_as_its_task_says_and_episodes_are_cut_but_never_end() -> None:
    task, environment = Task.random(2), TabularEnvironment(2)
    counts = np.zeros((STATES, ACTIONS, STATES))
    rng = np.random.default_rng(0)
    observation, _ = environment.reset(seed=0)
    for step in range(1, 40_001):
        state, action = int(observation.argmax()), rng.integers(ACTIONS)
        observation, reward, terminated, truncated, _ = environment.step(action)
        assert reward == task.rewards[state, action]
        assert (terminated, truncated) == (False, step % EPISODE_STEPS == 0)
        counts[state, action, observation.argmax()] += 1
        if truncated:
            observation, _ = environment.reset()
    seen = counts / counts.sum(-1, keepdims=True)
    assert np.abs(seen - task.moves).max() < 0.08


@pytest.mark.slow
def test_the_losses_find_the_best_policy_and_the_models_q_is_the_exact_one() -> None:
    found = train(ARMS["full, model's values from the prior"], 1, {"trainer": {"total_timesteps": 40_000}})
    assert found["policy"] > 0.95
    assert found["q"] > 0.95
