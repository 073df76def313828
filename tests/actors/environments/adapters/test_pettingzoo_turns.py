"""Games of PettingZoo in which agents take turns, as environments in which all agents act at once."""

from __future__ import annotations

import numpy as np

from actors.environments.base import Episode
from actors.settings import PettingZooEnv
from tests.actors.environments.spaces.test_action_masks import unrolled
from tests.actors.environments.test_boundary import started

TIC_TAC_TOE = PettingZooEnv(factory="pettingzoo.classic.tictactoe.tictactoe:env", channels="last")


def test_a_game_is_played_to_its_end_by_hand() -> None:
    environment = started(TIC_TAC_TOE, copies=1)
    shown = environment.reset()
    assert shown["on_turn"].tolist() == [[True], [False]]
    assert shown["action_mask"].sum(1).tolist() == [9, 1]
    # Columns of three: the first player takes 0, 1, 2, the second 3 and 4. Who is not on turn has the first action.
    for first, second in ((0, 0), (0, 3), (1, 0), (0, 4)):
        step = environment.step(np.array([first, second]))
        assert step.rewards.tolist() == [0, 0]
        assert not step.terminated.any()
        assert step.valid.all()
    assert step.observations["action_mask"].tolist() == [
        [False, False, True, False, False, True, True, True, True],  # 0, 1, 3 and 4 are taken
        [True] + [False] * 8,
    ]
    step = environment.step(np.array([2, 0]))
    assert step.rewards.tolist() == [1, -1]  # the loser hears of it although it was not on turn
    assert step.terminated.tolist() == [True, True]
    assert step.episodes == [Episode(0.0, 5)]
    # The mean return of a game is always 0; how much the two differ tells a win from a draw.
    assert dict(zip(environment.episode_statistics, step.episodes[0].statistics, strict=True))["agent_return_std"] == 1.0
    assert step.observations["action_mask"].sum(1).tolist() == [9, 1]  # the next game's first


def test_a_network_that_plays_both_sides_never_makes_an_illegal_move() -> None:
    environment = started(TIC_TAC_TOE, copies=4)
    block = unrolled(environment, environment.reset(), 200)  # PettingZoo ends a game with -1 and 0 where a move is illegal
    rewards = block.rewards.reshape(4, 2, -1)
    assert len(block.episode_return) > 50
    assert (rewards.sum(1) == 0).all()
    assert (np.abs(rewards) <= 1).all()


def test_agents_that_all_act_in_a_round_are_converted_by_pettingzoo() -> None:
    environment = started(PettingZooEnv(factory="pettingzoo.classic.rps.rps:env", kwargs={"max_cycles": 3}), copies=1)
    assert not environment.spaces.masked
    assert environment.step(np.array([0, 1])).rewards.tolist() == [-1, 1]
