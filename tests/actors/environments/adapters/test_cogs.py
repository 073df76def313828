from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from actors.environments.adapters.cogs import CogsEnvironment
from actors.environments.adapters.cogs_mission import AGENT, HUB, CogsGame
from actors.environments.base import Episode
from actors.environments.checks import first_observations
from actors.environments.make import describe, make_environment
from actors.settings import CogsEnv

NOOP, NORTH, SOUTH, WEST, EAST, VIBE_DEFAULT, VIBE_HEART = range(7)
MOVES = {NORTH: (-1, 0), SOUTH: (1, 0), WEST: (0, -1), EAST: (0, 1)}
HERE = 5 * 16 + 5  # the middle of an 11x11 window
GLOBAL, PAD = 254, 255
Tokens = NDArray[np.uint8]


def feature_ids(settings: CogsEnv) -> dict[str, int]:
    return {feature.name: feature.id for feature in CogsGame(settings).config.id_map().features()}


def value_of(row: Tokens, location: int, feature: int) -> int:
    """The value of a feature at a location, 0 where there is no token: MettaGrid shows no zeros of an inventory."""
    found = row[(row[:, 0] == location) & (row[:, 1] == feature), 2]
    return int(found[0]) if found.size else 0


def started(settings: CogsEnv, copies: int, seed: int = 0) -> CogsEnvironment:
    environment = make_environment(settings, copies=copies, seed=seed)
    assert isinstance(environment, CogsEnvironment)
    first_observations(environment)
    return environment


def test_the_missions_have_the_spaces_that_they_promise() -> None:
    small, statistics = describe(CogsEnv())
    assert small.observation.shape == (128, 3)
    assert small.action.sizes == (5,)
    assert statistics == ("hearts_created", "hearts_deposited")
    full, _ = describe(CogsEnv(mission="easy_hearts"))
    assert full.observation.shape == (200, 3)
    assert full.action.sizes == (157,)  # noop, 4 moves, 152 vibes: ln 157 = 5.056 is what an even policy's entropy must be
    assert (full.observation.kind, full.observation.dtype, full.observation.window) == ("tokens", "uint8", (11, 11))


def test_categories_and_scales_cover_every_token_that_is_shown() -> None:
    for settings in (CogsEnv(), CogsEnv(mission="easy_hearts")):
        environment = started(settings, copies=2)
        space = environment.spaces.observation
        ids = feature_ids(settings)
        assert ids["tag"] in space.categorical_features
        assert (ids["vibe"] in space.categorical_features) == (settings.mission == "easy_hearts")
        rng = np.random.default_rng(0)
        for _ in range(100):
            observations = environment.step(rng.integers(0, 7 if settings.mission == "easy_hearts" else 5, 8)).observations
            tokens = observations[observations[..., 0] != PAD]
            assert tokens[:, 1].max() < len(space.feature_scales)
            scales = np.array(space.feature_scales)[tokens[:, 1]]
            numeric = ~np.isin(tokens[:, 1], space.categorical_features)
            assert np.all(tokens[numeric, 2] <= scales[numeric])
            tags = tokens[tokens[:, 1] == ids["tag"], 2]
            assert tags.max() < space.num_categories


def test_a_random_policy_earns_what_it_does_on_the_reference_configuration() -> None:
    # 480 episodes of a configuration written independently gave 1.418 with a standard error of 0.070, thus 1.54 an episode;
    # four standard errors of 64 episodes are 4 * 1.54 / 8 = 0.77.
    environment = started(CogsEnv(), copies=16, seed=1)
    rng = np.random.default_rng(1)
    episodes: list[Episode] = []
    while len(episodes) < 64:
        episodes += environment.step(rng.integers(0, 5, 64)).episodes
    assert np.mean([episode.episode_return for episode in episodes]) == pytest.approx(1.42, abs=0.77)
    assert {episode.length for episode in episodes} == {256}


def test_max_steps_cuts_an_episode_and_shows_its_final_observation() -> None:
    settings = CogsEnv(max_steps=4)
    completion = feature_ids(settings)["episode_completion_pct"]
    environment = started(settings, copies=1)
    for step_number in (1, 2, 3):
        step = environment.step(np.zeros(4, np.int64))
        assert not step.truncated.any()
        # A byte counts the episode: 255 * 1/4 = 63.75, 255 * 2/4 = 127.5, 255 * 3/4 = 191.25.
        assert value_of(step.observations[0], GLOBAL, completion) == pytest.approx(255 * step_number / 4, abs=1)
    step = environment.step(np.zeros(4, np.int64))
    assert step.truncated.all()
    assert not step.terminated.any()
    assert step.final_rows.tolist() == [0, 1, 2, 3]
    assert [value_of(row, GLOBAL, completion) for row in step.final_observations] == pytest.approx([255] * 4, abs=1)
    assert [value_of(row, GLOBAL, completion) for row in step.observations] == [0] * 4
    assert [episode.length for episode in step.episodes] == [4]
    assert not environment.step(np.zeros(4, np.int64)).truncated.any()


def test_first_episodes_are_cut_at_spread_steps_and_only_whole_ones_are_reported() -> None:
    environment = started(CogsEnv(max_steps=8, num_cogs=1), copies=4)
    ends, reported = {}, {}
    for t in range(1, 17):
        step = environment.step(np.zeros(4, np.int64))
        ends[t] = step.final_rows.tolist()
        reported[t] = [episode.length for episode in step.episodes]
        assert np.flatnonzero(step.truncated).tolist() == ends[t]
    # Limits of the first episodes: 8 - 8 * i // 4 = 8, 6, 4, 2; then every 8 steps.
    assert {t: rows for t, rows in ends.items() if rows} == {
        2: [3], 4: [2], 6: [1], 8: [0], 10: [3], 12: [2], 14: [1], 16: [0],
    }  # fmt: skip
    assert {t: lengths for t, lengths in reported.items() if lengths} == {8: [8], 10: [8], 12: [8], 14: [8], 16: [8]}


def test_more_copies_than_steps_still_end_one_step_at_the_earliest() -> None:
    environment = started(CogsEnv(max_steps=2, num_cogs=1), copies=5)
    # Limits: 2 - 2 * i // 5 = 2, 2, 2, 1, 1 for i = 0..4.
    assert environment.step(np.zeros(5, np.int64)).final_rows.tolist() == [3, 4]


def test_an_episode_after_a_reset_is_like_the_first_one() -> None:
    # The hub and a lone agent leave nothing to chance, so the same actions must show the same again.
    environment = started(CogsEnv(mission="easy_hearts", num_cogs=1, max_steps=30), copies=1)
    actions = np.random.default_rng(0).integers(0, 7, 30)
    shown = [environment.step(np.array([action])).observations.copy() for action in [*actions, *actions]]
    np.testing.assert_array_equal(shown[:29], shown[30:59])


def test_a_seed_brings_the_same_maps_back_and_copies_differ() -> None:
    def shown(seed: int) -> Tokens:
        environment = started(CogsEnv(), copies=2, seed=seed)
        rng = np.random.default_rng(0)
        return np.stack([environment.step(rng.integers(0, 5, 8)).observations.copy() for _ in range(20)])

    np.testing.assert_array_equal(shown(7), shown(7))
    assert not np.array_equal(shown(7), shown(8))
    first = started(CogsEnv(), copies=2, seed=7)._observations
    assert not np.array_equal(first[:4], first[4:])


@pytest.mark.parametrize("mission", ["easy_hearts_small", "easy_hearts"])
@pytest.mark.parametrize("num_cogs", [1, 12, 13, 24])
def test_any_number_of_cogs_fits_the_map_and_the_tokens(mission: str, num_cogs: int) -> None:
    settings = CogsEnv.model_validate({"mission": mission, "num_cogs": num_cogs})
    cells = [cell for row in CogsGame(settings).make_map(np.random.default_rng(0)) for cell in row]
    assert cells.count(AGENT) == num_cogs
    assert {"assembler", "chest", "charger", "carbon_extractor", "oxygen_extractor"} <= set(cells)
    # Too few tokens would raise; agents carry the most after they have wandered about for a while.
    environment = started(settings, copies=1)
    rng = np.random.default_rng(0)
    for _ in range(200):
        environment.step(rng.integers(0, environment.spaces.action.sizes[0], num_cogs))


def test_the_random_map_is_nine_by_nine_until_half_of_it_would_be_full() -> None:
    def side(num_cogs: int) -> int:
        return len(CogsGame(CogsEnv(num_cogs=num_cogs)).make_map(np.random.default_rng(0)))

    # 7x7 = 49 cells inside hold 5 stations and 19 agents in at most half of them; 20 agents need 50, thus 8x8.
    assert [side(4), side(19), side(20)] == [9, 9, 10]


@pytest.mark.parametrize("action", [-1, 5])
def test_an_action_out_of_range_is_refused(action: int) -> None:
    with pytest.raises(ValueError, match="expected actions of 0 to 4"):
        started(CogsEnv(num_cogs=1), copies=1).step(np.array([action]))


def walk(start: tuple[int, int], station: str) -> tuple[list[int], tuple[int, int]]:
    """The moves from a cell of the hub until a station is bumped into, and the cell beside it."""
    queue = deque([(start, [])])  # type: deque[tuple[tuple[int, int], list[int]]]
    seen = {start}
    while queue:
        cell, moves = queue.popleft()
        for move, (dy, dx) in MOVES.items():
            there = (cell[0] + dy, cell[1] + dx)
            if HUB[there[0]][there[1]] == station:
                return [*moves, move], cell
            if HUB[there[0]][there[1]] in ".@+" and there not in seen:
                seen.add(there)
                queue.append((there, [*moves, move]))
    raise AssertionError(station)


def test_hearts_need_all_elements_and_the_vibe_and_pay_as_promised() -> None:
    settings = CogsEnv(mission="easy_hearts", num_cogs=1)
    environment = started(settings, copies=1)
    ids = feature_ids(settings)
    held = {}

    def act(actions: Sequence[int]) -> float:
        total = 0.0
        for action in actions:
            step = environment.step(np.array([action]))
            total += float(step.rewards[0])
        held.update({name: value_of(step.observations[0], HERE, ids[f"inv:{name}"]) for name in ("carbon", "silicon", "heart")})
        return total

    cell = (5, 4)  # the first `@` of the hub
    gathered = []
    for station in "COGS":
        moves, cell = walk(cell, station)
        gathered.append(act(moves))
    assert gathered == pytest.approx([0.1] * 4)  # the first of each element
    assert (held["carbon"], held["silicon"]) == (2, 15)
    moves, cell = walk(cell, "A")
    assert act(moves) == 0.0  # not without the vibe
    assert held["heart"] == 0
    assert act([VIBE_HEART, moves[-1]]) == pytest.approx(1.0)  # one of each becomes a heart, and some of each is left
    assert (held["carbon"], held["silicon"], held["heart"]) == (1, 14, 1)
    # The last carbon and germanium go into a second heart: + 1 - 0.1 - 0.1.
    assert act(moves[-1:]) == pytest.approx(0.8)
    moves, cell = walk(cell, "H")
    # Each heart pays 1 for the deposit and 1 / num_cogs = 1 for lying in the chest.
    assert act([*moves, moves[-1]]) == pytest.approx(4.0)
    assert held["heart"] == 0


def test_what_was_earned_in_an_episodes_last_step_is_paid() -> None:
    moves, _ = walk((5, 4), "C")
    environment = started(CogsEnv(mission="easy_hearts", num_cogs=1, max_steps=len(moves)), copies=1)
    steps = [environment.step(np.array([move])) for move in moves]
    assert steps[-1].truncated.all()
    assert steps[-1].rewards.tolist() == pytest.approx([0.1])
    assert steps[-1].episodes[0].episode_return == pytest.approx(0.1)


def test_a_move_costs_two_energy_and_one_returns_each_step() -> None:
    settings = CogsEnv(mission="easy_hearts", num_cogs=1)
    energy = feature_ids(settings)["inv:energy"]
    environment = started(settings, copies=1)
    shown = [
        value_of(environment.step(np.array([action])).observations[0], HERE, energy)
        for action in (EAST, WEST, NORTH, NORTH, NORTH, NORTH, NORTH, NOOP, VIBE_HEART)
    ]
    # Of 255: six steps, one bump into the wall above row 1, which costs nothing, and the limit at 255.
    assert shown == [254, 253, 252, 251, 250, 249, 250, 251, 252]


def test_who_has_no_energy_rests() -> None:
    settings = CogsEnv(mission="easy_hearts", num_cogs=1)
    ids = feature_ids(settings)
    environment = started(settings, copies=1)
    assembler = CogsGame(settings).config.id_map().tag_names().index("type:assembler")

    def act(action: int) -> tuple[int, int]:
        """The energy, and the column of the window in which the assembler is seen."""
        row = environment.step(np.array([action])).observations[0]
        place = row[(row[:, 1] == ids["tag"]) & (row[:, 2] == assembler), 0]
        return value_of(row, HERE, ids["inv:energy"]), int(place[0]) & 15

    # 254 moves to and fro leave 255 - 254 = 1. The agent stands where it began, 2 columns left of the assembler: column 5 + 2.
    for action in [EAST, WEST] * 127:
        last = act(action)
    assert last == (1, 7)
    assert act(EAST) == (2, 7)  # cannot pay
    assert act(EAST) == (1, 6)
    assert act(WEST) == (2, 6)
    assert act(WEST) == (1, 7)


def breadth_first(ids: dict[str, int], tags: Sequence[str]) -> Callable[[Tokens, np.random.Generator], int]:
    """A policy for the small mission: walk to what is needed next, as far as the window shows it."""
    tag, elements = ids["tag"], ("carbon", "oxygen")

    def act(row: Tokens, rng: np.random.Generator) -> int:
        things = {(int(loc) >> 4, int(loc) & 15): tags[value] for loc, feature, value in row if feature == tag and loc < GLOBAL}
        if value_of(row, HERE, ids["inv:heart"]):
            goals = {"type:chest"}
        else:
            missing = [name for name in elements if not value_of(row, HERE, ids[f"inv:{name}"])]
            goals = {f"type:{name}_extractor" for name in missing} or {"type:assembler"}
        queue = deque([((5, 5), NOOP)])
        seen = {(5, 5)}
        while queue and rng.random() > 0.01:
            cell, first = queue.popleft()
            for move, (dy, dx) in MOVES.items():
                there = (cell[0] + dy, cell[1] + dx)
                if things.get(there) in goals:
                    return first or move
                if there not in seen and there not in things and all(0 <= at < 11 for at in there):
                    seen.add(there)
                    queue.append((there, first or move))
        return int(rng.integers(1, 5))

    return act


def test_the_return_of_an_episode_is_made_of_its_hearts() -> None:
    settings = CogsEnv(max_steps=128)
    environment = started(settings, copies=2, seed=3)
    act = breadth_first(feature_ids(settings), CogsGame(settings).config.id_map().tag_names())
    rng = np.random.default_rng(0)
    observations, rewards = environment.reset(), np.zeros(8)
    for _ in range(128):
        step = environment.step(np.array([act(row, rng) for row in observations]))
        observations = step.observations
        rewards += step.rewards
    (episode,) = step.episodes  # the first copy's; the second's first episode was cut at 64
    created, deposited = episode.statistics
    assert deposited >= 2
    assert episode.episode_return == pytest.approx(rewards[:4].mean())
    # Each heart pays its maker 1, its bearer 1 and all four agents 1/4; held elements add 0 to 0.2 an agent.
    hearts = (created + deposited) / 4 + deposited / 4
    assert 0 <= episode.episode_return - hearts <= 0.2 + 1e-6
