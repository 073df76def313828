"""MiniGrid's real environments: what a one-hot observation says, the end of an episode, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from actors.environments.adapters.minigrid import make_one, one_hot_cells
from actors.environments.checks import first_observations
from actors.environments.make import describe, make_environment
from actors.settings import MiniGridEnv
from oatmill.errors import UserError
from protocol.data.spaces import ActionSpace, ObservationSpace
from recipes.resolve import resolve_run

LEFT, RIGHT, FORWARD = 0, 1, 2


def test_doorkey_is_a_vector_of_bytes_and_seven_actions() -> None:
    spaces, statistics = describe(MiniGridEnv())
    # 7 x 7 cells of 11 objects + 6 colours + 3 states, and 4 directions.
    assert spaces.observation == ObservationSpace("vector", (7 * 7 * 20 + 4,), "uint8")
    assert spaces.action == ActionSpace((7,))
    assert statistics == ("is_success", "score")


def test_the_recipe_takes_minigrids_own_dict() -> None:
    page = Path(__file__).parents[4] / "docs/recipes/minigrid_doorkey.md"
    command = "oatmill train minigrid_doorkey env.kind=gymnasium env.id=minigrid:MiniGrid-DoorKey-6x6-v0"
    assert f"\n{command}\n" in page.read_text()
    _, _, recipe, *assignments = command.split()
    run = resolve_run(recipe, assignments, preset=None, config=None, flags={})
    keys = {path: (part.kind, part.shape, part.dtype) for path, part in describe(run.settings.env)[0].observation.parts}
    assert keys == {
        "direction": ("vector", (4,), "bool"),
        "image": ("vector", (980,), "uint8"),
        "mission": ("vector", (128,), "uint8"),
    }
    assert run.settings.agent.core == "lstm"


def test_a_cell_is_three_ones_and_the_direction_another() -> None:
    # A view of one cell: a door (4), yellow (4), locked (2); looking up (3).
    row = one_hot_cells((1, 1)).convert(np.array([[4, 4, 2, 3]], np.uint8))
    assert row.dtype == np.uint8
    assert np.flatnonzero(row[0]).tolist() == [4, 11 + 4, 11 + 6 + 2, 20 + 3]


def test_what_is_seen_is_what_minigrid_shows() -> None:
    environment = make_environment(MiniGridEnv(), copies=2, seed=1)
    rows = first_observations(environment)
    assert rows.sum(1).tolist() == [3 * 49 + 1] * 2
    real = make_one(MiniGridEnv())
    seed = int(np.random.SeedSequence(1).generate_state(2)[1])
    observation, _ = real.reset(seed=seed)
    objects = observation["image"][..., 0].ravel()
    assert np.argmax(rows[1, : 49 * 20].reshape(49, 20)[:, :11], axis=1).tolist() == objects.tolist()
    assert np.argmax(rows[1, 49 * 20 :]) == observation["direction"]


def test_an_episode_that_runs_out_of_steps_is_cut_and_shows_its_final_observation() -> None:
    environment = make_environment(MiniGridEnv(max_steps=4), copies=1, seed=0)
    first_observations(environment)
    for _ in range(3):
        before = environment.step(np.array([LEFT])).observations.copy()
    step = environment.step(np.array([LEFT]))
    assert (step.truncated.tolist(), step.terminated.tolist(), step.final_rows.tolist()) == ([True], [False], [0])
    # Turning left takes the direction one down, modulo 4.
    directions = [int(np.argmax(row[0, -4:])) for row in (before, step.final_observations)]
    assert directions[1] == (directions[0] - 1) % 4
    assert [(episode.episode_return, episode.length) for episode in step.episodes] == [(0.0, 4)]


def test_reaching_the_goal_terminates_with_minigrids_reward() -> None:
    environment = make_environment(MiniGridEnv(id="MiniGrid-Empty-5x5-v0"), copies=1, seed=0)
    first_observations(environment)
    for action in (FORWARD, FORWARD, RIGHT, FORWARD, FORWARD):
        step = environment.step(np.array([action]))
    assert (step.terminated.tolist(), step.truncated.tolist()) == ([True], [False])
    # 1 - 0.9 * steps / max_steps, with 5 of 4 * 5 * 5 steps.
    assert step.episodes[0].episode_return == pytest.approx(1 - 0.9 * 5 / 100)
    assert len(step.final_rows) == 0


def test_copies_and_seeds_play_different_mazes() -> None:
    rows = [first_observations(make_environment(MiniGridEnv(), copies=3, seed=seed)).tobytes() for seed in (0, 0, 1)]
    assert rows[0] == rows[1] != rows[2]


def test_what_is_none_of_minigrids_is_refused() -> None:
    with pytest.raises(UserError, match=r"env\.id=CartPole-v1: expected one of MiniGrid's environments"):
        make_environment(MiniGridEnv(id="CartPole-v1"), copies=1, seed=0)
    with pytest.raises(UserError, match=r"env\.id=MiniGrid-Nothing-v0 could not be built: NameNotFound"):
        make_environment(MiniGridEnv(id="MiniGrid-Nothing-v0"), copies=1, seed=0)
    assert gymnasium.spec("MiniGrid-DoorKey-6x6-v0") is not None


def test_a_package_that_is_missing_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minigrid", None)
    monkeypatch.delitem(sys.modules, "actors.environments.adapters.minigrid")
    with pytest.raises(UserError, match=r"needs a package that is not installed .*; pip install 'oatmill\[minigrid\]'$"):
        make_environment(MiniGridEnv(), copies=1, seed=0)
