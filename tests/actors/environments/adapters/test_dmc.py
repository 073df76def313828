from __future__ import annotations

import numpy as np
import pytest

from actors.environments.make import describe, make_environment
from actors.settings import DmcEnv
from oatmill.errors import UserError

pytest.importorskip("dm_control")
pytestmark = pytest.mark.filterwarnings("ignore")  # of its parts, GLFW without a screen among them


def test_a_task_is_a_vector_and_numbers() -> None:
    spaces, _ = describe(DmcEnv(task="cheetah-run"))
    assert (spaces.observation.kind, spaces.observation.shape, spaces.observation.dtype) == ("vector", (17,), "float32")
    assert (spaces.action.low, spaces.action.high) == ((-1.0,) * 6, (1.0,) * 6)


def test_a_time_limit_truncates_and_rewards_of_repeated_steps_are_added() -> None:
    environment = make_environment(DmcEnv(task="cartpole-balance", action_repeat=8), copies=1, seed=1)
    single = make_environment(DmcEnv(task="cartpole-balance"), copies=1, seed=1)
    np.testing.assert_array_equal(environment.reset(), single.reset())
    action = np.full((1, 1), 0.5, np.float32)
    first = environment.step(action)
    rewards = [float(single.step(action).rewards[0]) for _ in range(8)]
    assert first.rewards[0] == pytest.approx(sum(rewards), rel=1e-6)
    for _ in range(123):
        assert not environment.step(action).truncated[0]
    last = environment.step(action)  # 125 times 8 are the suite's 1,000 steps
    assert (last.truncated.tolist(), last.terminated.tolist(), last.episodes[0].length) == ([True], [False], 125)


def test_copies_and_seeds_begin_otherwise() -> None:
    starts = [make_environment(DmcEnv(task="cartpole-swingup"), copies=2, seed=seed).reset().copy() for seed in (1, 1, 2)]
    assert len({tuple(row) for start in (starts[0], starts[2]) for row in start}) == 4
    np.testing.assert_array_equal(starts[0], starts[1])


def test_a_task_that_is_not_there_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"^env\.task=cheetah-rn: the suite has no such task; the nearest is cheetah-run$"):
        make_environment(DmcEnv(task="cheetah-rn"), copies=1, seed=1)
