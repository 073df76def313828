"""Environments with a camera: each kind's pictures, where an episode's end is, and what makes none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from actors.environments.adapters.cogs import Board, Thing
from actors.environments.adapters.cogs_picture import AGENTS, BAR, RESOURCES, STATIONS, TILE, WALL, draw
from actors.environments.checks import first_observations
from actors.environments.filming import Film, make_film
from actors.settings import AtariEnv, CogsEnv, EnvSettings, FactoryEnv, GymnasiumEnv, MiniGridEnv, PettingZooEnv
from examples.corridor import LEFT, RIGHT
from oatmill.errors import UserError
from protocol.data.trajectory import Array

BLUE, GOLD = [40, 90, 200], [220, 180, 40]


def started(settings: EnvSettings, seed: int = 0) -> tuple[Film, Array]:
    film = make_film(settings, seed=seed)
    first = first_observations(film.environment).copy()
    return film, first


def test_there_is_a_picture_of_the_reset_of_every_step_and_of_the_end_and_none_of_the_next_episode() -> None:
    film, first = started(FactoryEnv(factory="examples.corridor:make_env", kwargs={"length": 5}))
    towards = RIGHT if first[0, 1] == 1.0 else LEFT
    pictures = film.take(ended=False)
    for _ in range(2):
        step = film.environment.step(np.array([towards]))
        pictures += film.take(ended=bool(step.episodes))
    assert step.terminated.all()
    places = [np.flatnonzero((picture[16, 16::32] == BLUE).all(1)).tolist() for picture in pictures]
    assert places == ([[2], [3], [4]] if towards == RIGHT else [[2], [1], [0]])
    assert (film.rate, pictures[0].shape, str(pictures[0].dtype)) == (10.0, (32, 160, 3), "uint8")
    film.environment.step(np.array([towards]))
    assert len(film.take(ended=False)) == 1


@pytest.mark.parametrize(
    ("settings", "shape", "rate"),
    [
        (GymnasiumEnv(id="CartPole-v1"), (400, 600, 3), 50.0),
        (MiniGridEnv(), (192, 192, 3), 10.0),
        (AtariEnv(), (210, 160, 3), 15.0),
        (CogsEnv(), (9 * TILE + BAR, 9 * TILE, 3), 8.0),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_each_kind_gives_one_picture_a_step_that_shows_something(settings: Any, shape: tuple[int, ...], rate: float) -> None:
    film, _ = started(settings)
    pictures = film.take(ended=False)
    for _ in range(3):
        film.environment.step(np.ones(film.environment.num_rows, np.int64))
        pictures += film.take(ended=False)
    assert [picture.shape for picture in pictures] == [shape] * 4
    assert all(len(np.unique(picture.reshape(-1, 3), axis=0)) > 2 for picture in pictures)
    assert film.rate == rate


def test_the_screen_in_colour_is_the_game_that_is_played() -> None:
    film, _ = started(AtariEnv(repeat_action_probability=0.25), seed=3)
    draw_action = np.random.default_rng(0)
    for _ in range(60):
        step = film.environment.step(draw_action.integers(0, 6, 1))
        (picture,) = film.take(ended=False)
        grey = picture @ np.array([0.299, 0.587, 0.114])
        # Both screens cut into 21 rows and 4 columns: each part of the one is as bright as the same part of the other. A paddle
        # elsewhere would change a part by about 8.
        shown = grey.reshape(21, 10, 4, 40).mean((1, 3))
        seen = step.observations[0, -1].reshape(21, 4, 4, 21).mean((1, 3))
        assert np.abs(shown - seen).max() < 3
    assert shown.std() > 10


def test_a_mission_is_drawn_with_its_stations_its_agents_and_what_they_carry() -> None:
    things = [
        Thing("wall", (0, 0), None, {}),
        Thing("chest", (0, 1), None, {"heart": 2}),
        Thing("agent", (1, 1), 2, {"oxygen": 1, "carbon": 0, "energy": 9}),
        Thing("something_new", (1, 0), None, {}),
    ]
    picture = draw(Board((2, 2), things, step=7, hearts_created=3, hearts_deposited=1))
    assert picture.shape == (2 * TILE + BAR, 2 * TILE, 3)
    assert tuple(picture[BAR + 5, 5]) == WALL
    assert tuple(picture[BAR + 12, TILE + 12]) == STATIONS["chest"][1]
    assert tuple(picture[BAR + TILE + 12, TILE + 12]) == AGENTS[2]
    # The first dot below the agent is oxygen's: it carries no carbon.
    assert tuple(picture[BAR + 2 * TILE - 5, TILE + 4]) == RESOURCES["oxygen"]
    later = draw(Board((2, 2), things, step=8, hearts_created=3, hearts_deposited=1))
    assert (picture[:BAR] != later[:BAR]).any()
    assert (picture[BAR:] == later[BAR:]).all()


def test_a_board_is_what_the_simulation_holds() -> None:
    film, _ = started(CogsEnv(num_cogs=3))
    environment: Any = film.environment
    for _ in range(4):
        environment.step(np.array([0, 0, 0]))
    board = environment.board()
    assert (board.step, board.hearts_created, board.hearts_deposited) == (4, 0, 0)
    assert sorted(thing.agent for thing in board.things if thing.agent is not None) == [0, 1, 2]
    assert {"assembler", "chest", "carbon_extractor", "oxygen_extractor", "wall"} <= {thing.kind for thing in board.things}
    assert all(0 <= thing.place[0] < board.size[0] and 0 <= thing.place[1] < board.size[1] for thing in board.things)


def test_a_parallel_environment_that_renders_is_filmed() -> None:
    film, _ = started(PettingZooEnv(factory="tests.actors.environments.toy_parallel:Painted"))
    pictures = film.take(ended=False)
    film.environment.step(np.zeros(film.environment.num_rows, np.int64))
    pictures += film.take(ended=False)
    assert [int(picture[0, 0, 0]) for picture in pictures] == [0, 1], "each shows how many steps were taken"


@pytest.mark.parametrize(
    "settings",
    [
        FactoryEnv(factory="tests.actors.environments.toy_environments:Counter"),
        FactoryEnv(
            factory="tests.actors.environments.toy_environments:make_counters", kwargs={"num_envs": 1, "mode": "SAME_STEP"}
        ),
        PettingZooEnv(factory="tests.actors.environments.toy_parallel:Relay"),
    ],
    ids=["an Env without pictures", "a VectorEnv", "a parallel environment"],
)
def test_what_makes_no_pictures_is_refused(settings: EnvSettings) -> None:
    with pytest.raises(UserError, match=r"cannot be rendered: expected an Env with render_mode=\"rgb_array\""):
        make_film(settings, seed=0)


def test_what_cannot_be_built_is_refused_in_the_usual_words() -> None:
    with pytest.raises(UserError, match=r"^env\.id=CartPol-v1 could not be built: NameNotFound"):
        make_film(GymnasiumEnv(id="CartPol-v1"), seed=0)
