from __future__ import annotations

import warnings

import numpy as np
import pytest

from actors.environments.base import Episode
from actors.environments.checks import begin
from actors.environments.make import describe, make_environment
from actors.settings import EnvPoolEnv
from oatmill.errors import UserError

pytest.importorskip("envpool")

# EnvPool's own spaces are made of float64 bounds, of which Gymnasium warns.
pytestmark = pytest.mark.filterwarnings("ignore:.*precision lowered by casting:UserWarning")


def test_each_actor_has_its_own_random_numbers_and_a_seed_gives_the_same_ones() -> None:
    starts = [begin(make_environment(EnvPoolEnv(id="CartPole-v1"), copies=4, seed=seed)) for seed in (1, 1, 2)]
    assert starts[0].stream == starts[1].stream != starts[2].stream
    assert len({tuple(row) for start in starts[::2] for row in start.observations}) == 8


def test_no_reset_warns_of_its_seed() -> None:
    environment = make_environment(EnvPoolEnv(id="CartPole-v1"), copies=2, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        environment.reset()
        environment.reset()


def test_an_episode_has_as_many_steps_as_it_has_rewards() -> None:
    environment = make_environment(EnvPoolEnv(id="CartPole-v1", info_metrics=["elapsed_step"]), copies=3, seed=1)
    environment.reset()
    episodes: list[Episode] = []
    for _ in range(60):
        step = environment.step(np.zeros(3, np.int32))
        assert step.rewards.tolist() == step.valid.tolist(), "1 for each step of an agent, and none for a reset"
        episodes += step.episodes
    assert len(episodes) > 10
    # Pushed to the left only, the pole falls within 8 to 11 steps.
    assert all(8 <= episode.length <= 11 and episode.episode_return == episode.length for episode in episodes)
    assert all(episode.statistics[2] == episode.length for episode in episodes)


def test_frames_of_a_game_are_channels() -> None:
    spaces, statistics = describe(EnvPoolEnv(id="Pong-v5", kwargs={"stack_num": 4}))
    assert (spaces.observation.kind, spaces.observation.shape, spaces.observation.dtype) == ("image", (4, 84, 84), "uint8")
    assert statistics == ("is_success", "score")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (EnvPoolEnv(id="Pong-v4"), "^env.id=Pong-v4: EnvPool has no such environment; the nearest is Pong-v5$"),
        (
            EnvPoolEnv(id="Pong-v5", kwargs={"frameskip": 2}),
            "expected env.kwargs to be options of EnvPool's Pong-v5: .*frameskip",
        ),
    ],
)
def test_what_envpool_does_not_have_is_refused(settings: EnvPoolEnv, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_environment(settings, copies=1, seed=1)
