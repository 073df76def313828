"""The example of an environment of one's own: its numbers by hand, both its ends, and that oatmill takes it."""

from __future__ import annotations

import numpy as np
import pytest

from actors.environments.checks import first_observations
from actors.environments.make import make_environment
from actors.settings import FactoryEnv
from examples.corridor import LEFT, RIGHT, make_env
from protocol.data.spaces import ActionSpace, ObservationSpace

SETTINGS = FactoryEnv(factory="examples.corridor:make_env", kwargs={"length": 5})


def test_the_treasure_at_the_right_end_is_two_steps_from_the_middle() -> None:
    env = make_env(length=5)
    seed = next(seed for seed in range(20) if env.reset(seed=seed)[0][1] == 1.0)
    observation, _ = env.reset(seed=seed)
    assert observation.tolist() == [0.5, 1.0]
    observation, reward, terminated, truncated, _ = env.step(RIGHT)
    assert (observation.tolist(), reward, terminated, truncated) == ([0.75, 1.0], -0.01, False, False)
    observation, reward, terminated, truncated, _ = env.step(RIGHT)
    assert (observation.tolist(), reward, terminated, truncated) == ([1.0, 1.0], 0.99, True, False)


def test_whoever_walks_the_other_way_is_stopped_and_not_punished_for_where_he_stands() -> None:
    environment = make_environment(SETTINGS, copies=1, seed=0)
    away = LEFT if first_observations(environment)[0, 1] == 1.0 else RIGHT
    for _ in range(4 * 5):
        step = environment.step(np.array([away]))
    assert (step.truncated.tolist(), step.terminated.tolist()) == ([True], [False])
    assert step.final_observations[0, 0] == (0.0 if away == LEFT else 1.0)
    (episode,) = step.episodes
    assert episode.length == 20
    assert episode.episode_return == pytest.approx(-0.2)


def test_oatmill_takes_it_with_its_arguments() -> None:
    environment = make_environment(SETTINGS, copies=3, seed=0)
    assert environment.spaces.observation == ObservationSpace("vector", (2,), "float32")
    assert environment.spaces.action == ActionSpace((2,))
    assert first_observations(environment)[:, 0].tolist() == [0.5] * 3
