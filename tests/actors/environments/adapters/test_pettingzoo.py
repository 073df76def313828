from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from actors.environments.base import Environment, Episode
from actors.environments.checks import first_observations
from actors.environments.make import describe, make_environment
from actors.settings import PettingZooEnv
from oatmill.errors import UserError

ROCK, PAPER = 0, 1


def toy(function: str, **kwargs: Any) -> PettingZooEnv:
    return PettingZooEnv(factory=f"tests.actors.environments.toy_parallel:{function}", kwargs=kwargs)


def started(settings: PettingZooEnv, copies: int) -> Environment:
    environment = make_environment(settings, copies=copies, seed=0)
    first_observations(environment)
    return environment


def test_agents_that_come_late_or_leave_early_are_absent_until_the_next_episode() -> None:
    environment = started(toy("Relay"), copies=1)
    assert environment.num_rows == 3
    valid, terminated, truncated, rewards, shown, episodes = [], [], [], [], [], []
    for _ in range(5):
        step = environment.step(np.array([0, 1, 0]))  # early, late, guest
        valid.append(step.valid.tolist())
        terminated.append(step.terminated.tolist())
        truncated.append(step.truncated.tolist())
        rewards.append(step.rewards.tolist())
        shown.append(step.observations[:, 0].tolist())
        episodes.append(list(step.episodes))
        assert step.final_rows.tolist() == ([1] if len(valid) == 4 else [])
        assert step.final_observations.tolist() == ([[4.0]] if len(valid) == 4 else [])
    assert valid == [[True, True, False], [True, True, True], [False, True, True], [False, True, False], [True, True, False]]
    # Absent rows count as ended, and so does who leaves.
    assert terminated == [
        [False, False, True], [True, False, False], [True, False, True], [True, False, True], [False, False, True],
    ]  # fmt: skip
    assert truncated == [[False] * 3, [False] * 3, [False] * 3, [False, True, False], [False] * 3]
    assert rewards == [[1, 2, 0], [1, 2, 1], [0, 2, 1], [0, 2, 0], [1, 2, 0]]
    # Who has left shows what it saw last; after the fourth step the next episode begins.
    assert shown == [[1, 1, 1], [2, 2, 2], [2, 3, 3], [0, 0, 3], [1, 1, 1]]
    # Returns 2, 8 and 2 have a mean of 4.
    assert episodes == [[], [], [], [Episode(4.0, 4)], []]


def test_an_agent_that_has_left_stays_away_though_it_is_still_listed() -> None:
    environment = started(toy("Lingering"), copies=1)
    steps = [environment.step(np.array([0, 1, 0])) for _ in range(4)]
    assert [step.valid.tolist() for step in steps] == [
        [True, True, False], [True, True, True], [False, True, True], [False, True, False],
    ]  # fmt: skip
    assert steps[3].episodes == [Episode(4.0, 4)]


def test_copies_are_rows_one_after_another() -> None:
    environment = started(toy("Relay"), copies=2)
    step = environment.step(np.array([0, 0, 0, 1, 1, 1]))
    assert step.rewards.tolist() == [1, 1, 0, 2, 2, 0]
    assert environment.reset()[:, 0].tolist() == [0, 0, 1, 0, 0, 1]  # the guests have not been seen again yet
    assert environment.step(np.array([0] * 6)).valid.tolist() == [True, True, False] * 2


def test_the_numbers_of_an_episode_are_those_of_each_agents_own_last_step() -> None:
    patterns = ["late.score", "*y.score", "guest.nothing"]
    environment = started(toy("Telling").model_copy(update={"info_metrics": patterns}), copies=2)
    names = ("is_success", "score", "late.score", "guest.nothing", "early.score", "agent_return_std")
    assert environment.episode_statistics == names  # one pattern matches `early`, who is there at the first step
    episodes = [episode for _ in range(8) for episode in environment.step(np.zeros(6, np.int64)).episodes]
    # Early leaves after 2 steps, the guest after 3, late after 4; early does not say whether it has won.
    # The last number is of their returns.
    expected = (0.5, (20 + 30 + 40) / 3, 40, np.nan, 20, np.std([2, 4, 2]))
    assert [episode.copy for episode in episodes] == [0, 1, 0, 1]
    np.testing.assert_allclose(np.array([episode.statistics for episode in episodes]), np.array([expected] * 4))


def test_rock_paper_scissors_is_played_to_its_end() -> None:
    environment = started(PettingZooEnv(factory="pettingzoo.classic.rps.rps:parallel_env", kwargs={"max_cycles": 3}), copies=2)
    assert environment.spaces.observation.shape == (4,)  # one-hot of what the other played, or nothing yet
    assert environment.spaces.action.sizes == (3,)
    actions = np.array([ROCK, PAPER, PAPER, ROCK])
    for _ in range(2):
        step = environment.step(actions)
        assert step.rewards.tolist() == [-1, 1, 1, -1]  # paper beats rock
        assert not step.truncated.any()
    step = environment.step(actions)
    assert step.truncated.all()
    assert step.final_observations.argmax(1).tolist() == [PAPER, ROCK, ROCK, PAPER]  # the other's move
    assert step.observations.argmax(1).tolist() == [3, 3, 3, 3]  # nothing played yet
    assert step.episodes == [Episode(0.0, 3)] * 2


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (toy("Unequal"), "expected all agents to share one observation space, since one network plays them all; got"),
        (toy("Unlike"), "expected all agents to share one action space"),
        (
            PettingZooEnv(factory="tests.actors.environments.toy_environments:Counter"),
            "expected the function to return a pettingzoo ParallelEnv",
        ),
        (
            PettingZooEnv(factory="tests.actors.environments.toy_environments:make_text"),
            "got str; a gymnasium environment takes env.kind=factory",
        ),
    ],
)
def test_what_is_no_parallel_environment_of_equals_is_refused(settings: PettingZooEnv, says: str) -> None:
    with pytest.raises(UserError) as caught:
        describe(settings)
    assert says in str(caught.value)


def test_an_agent_that_vanishes_without_a_word_is_an_error() -> None:
    environment = started(toy("Relay", forgets_to_say=True), copies=1)
    environment.step(np.zeros(3, np.int64))
    with pytest.raises(ValueError, match="agent 'early' disappeared from agents without being terminated or truncated"):
        environment.step(np.zeros(3, np.int64))
