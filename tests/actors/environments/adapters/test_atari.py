"""The Arcade Learning Environment's real vectorised class: shapes, both kinds of end, seeds, and what is refused."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from actors.environments.base import Environment
from actors.environments.checks import first_observations
from actors.environments.make import describe, make_environment
from actors.settings import AtariEnv
from oatmill.errors import UserError
from protocol.data.spaces import ActionSpace, ObservationSpace

NOOP = 0


def started(settings: AtariEnv, copies: int, seed: int = 0) -> Environment:
    environment = make_environment(settings, copies=copies, seed=seed)
    first_observations(environment)
    return environment


def test_pong_is_four_frames_of_bytes_and_six_actions() -> None:
    spaces, _ = describe(AtariEnv())
    assert spaces.observation == ObservationSpace("image", (4, 84, 84), "uint8")
    assert spaces.action == ActionSpace((6,))
    small, _ = describe(AtariEnv(screen_size=42, stack=2, full_action_space=True))
    assert (small.observation.shape, small.action.sizes) == ((2, 42, 42), (18,))


def test_frames_move_up_the_stack_from_step_to_step() -> None:
    environment = started(AtariEnv(), copies=2)
    before = environment.step(np.array([2, 3])).observations.copy()
    after = environment.step(np.array([2, 3])).observations
    assert (after[:, :3] == before[:, 1:]).all()
    assert (after[:, 3] != before[:, 3]).any()


def test_an_episode_that_runs_out_of_frames_is_cut_and_shows_its_own_final_frames() -> None:
    environment = started(AtariEnv(max_frames=80, noop_max=0), copies=2)
    before = np.zeros(0)
    count = 0
    while count < 60:
        count += 1
        step = environment.step(np.array([NOOP, NOOP]))
        if step.truncated.any():
            break
        assert len(step.final_rows) == len(step.final_observations) == len(step.episodes) == 0
        before = step.observations.copy()
    assert step.truncated.tolist() == [True, True]
    assert step.terminated.tolist() == [False, False]
    assert step.valid.all()
    assert step.final_rows.tolist() == [0, 1]
    # The final observation is the next of its own episode; the one beside it begins another.
    assert (step.final_observations[:, :3] == before[:, 1:]).all()
    assert not (step.observations[:, :3] == before[:, 1:]).all()
    assert [episode.length for episode in step.episodes] == [count, count]
    # 80 frames of 4 a step, less the frames that starting the game took.
    assert 17 <= count <= 20
    following = environment.step(np.array([NOOP, NOOP]))
    assert not (following.terminated | following.truncated).any()
    assert (following.observations[:, :3] == step.observations[:, 1:]).all()


def test_a_game_that_is_over_terminates_with_its_score_and_without_a_final_observation() -> None:
    environment = started(AtariEnv(game="breakout"), copies=2, seed=3)
    draw = np.random.default_rng(0)
    rewards = np.zeros(2)
    for _ in range(2000):
        step = environment.step(draw.integers(0, 4, 2))
        rewards += step.rewards
        if step.terminated.any():
            break
    (row,) = np.flatnonzero(step.terminated)
    assert not step.truncated.any()
    assert len(step.final_rows) == 0
    assert [episode.episode_return for episode in step.episodes] == [rewards[row]]
    assert step.observations[row].any(), "the next episode's first frames"


def test_rewards_are_the_games_own_points() -> None:
    environment = started(AtariEnv(game="ms_pacman", noop_max=0), copies=1)
    # The game begins after its tune; a pellet gives 10 points.
    rewards = [float(environment.step(np.array([NOOP])).rewards[0]) for _ in range(20)]
    rewards += [float(environment.step(np.array([3])).rewards[0]) for _ in range(100)]
    assert max(rewards) >= 10
    assert set(rewards) <= {0.0, 10.0, 20.0}


def test_a_seed_gives_the_same_frames_and_another_gives_others() -> None:
    def played(seed: int) -> bytes:
        environment = started(AtariEnv(repeat_action_probability=0.25), copies=2, seed=seed)
        for _ in range(20):
            step = environment.step(np.array([2, 3]))
        shown: bytes = step.observations.tobytes()
        return shown

    assert played(0) == played(0)
    assert played(0) != played(1)


def test_every_root_gives_seeds_that_ale_takes() -> None:
    for seed in range(4):  # two of them give more than a signed 32-bit number
        started(AtariEnv(), copies=1, seed=seed)


def test_a_game_that_there_is_not_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"^env\.game=pongg: there is no such game; the nearest is pong$"):
        make_environment(AtariEnv(game="pongg"), copies=1, seed=0)


def test_a_package_that_is_missing_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ale_py", None)
    monkeypatch.delitem(sys.modules, "actors.environments.adapters.atari")
    with pytest.raises(UserError, match=r"needs a package that is not installed .*; pip install 'oatmill\[atari\]'$"):
        make_environment(AtariEnv(), copies=1, seed=0)
