"""Catch and Deep Sea: rewards by hand, and Gymnasium's own checker; the wrapper that makes steps slower."""

from __future__ import annotations

import time

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from benchmarks.slow_steps import Slow
from benchmarks.small_games import Catch, DeepSea


def test_the_games_keep_to_gymnasiums_interface() -> None:
    for environment in (Catch(), DeepSea()):
        check_env(environment, skip_render_check=True)


@pytest.mark.parametrize(("offset", "reward"), [(0, 1.0), (1, -1.0)])
def test_a_ball_is_caught_by_the_paddle_below_it(offset: int, reward: float) -> None:
    environment = Catch()
    for seed in range(10):
        observation, _ = environment.reset(seed=seed)
        target = (int(np.argmax(observation)) + offset) % 5
        rewards, ended = [], False
        while not ended:
            paddle = int(np.argmax(environment.board()[-5:]))
            _, gained, ended, _, _ = environment.step(1 + np.sign(target - paddle))
            rewards.append(gained)
        assert rewards == [0.0] * 8 + [reward]


def test_only_the_way_that_always_goes_right_has_the_treasure() -> None:
    environment = DeepSea(size=6)
    for wrong in [None, *range(6)]:
        environment.reset()
        rewards = []
        for row in range(6):
            right = environment.right[environment.row, environment.column]
            rewards.append(environment.step(1 - right if row == wrong else right)[1])
        moves = 6 - (wrong is not None)
        assert sum(rewards) == pytest.approx((wrong is None) - moves * 0.01 / 6)


def test_which_action_goes_right_differs_between_cells_and_is_the_same_in_each_copy() -> None:
    first, second, other = DeepSea(), DeepSea(), DeepSea(mapping_seed=1)
    assert np.array_equal(first.right, second.right)
    assert not np.array_equal(first.right, other.right)
    assert 0 < first.right.mean() < 1


def test_a_slower_environment_waits_in_each_step() -> None:
    environment = Slow(Catch(), milliseconds=20)
    environment.reset(seed=0)
    started = time.monotonic()
    rewards = [environment.step(1)[1] for _ in range(9)]
    assert time.monotonic() - started >= 9 * 0.02
    assert abs(rewards[-1]) == 1
