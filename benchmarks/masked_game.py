"""Plays tic-tac-toe with a trained network against a random player: `python -m benchmarks.masked_game RUN [GAMES]`.

Each side moves first in half of the games. The network makes its most likely move. A move into a cell that is not free
raises an error.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

import oatmill
from actors.environments.adapters.pettingzoo_turns import ON_TURN
from actors.environments.adapters.tic_tac_toe import TicTacToe

GAMES = 10_000


def play(agent: Any, games: int, *, seed: int = 0) -> dict[str, int]:
    """The results for the network, and the number of its moves."""
    rng = np.random.default_rng(seed)
    tables = [(TicTacToe(), game % 2) for game in range(games)]
    results, moves = {"won": 0, "drawn": 0, "lost": 0}, 0
    while tables:
        its_turn, others = [], []
        for game, side in tables:
            (its_turn if game.agent_selection == game.possible_agents[side] else others).append(game)
        for game in others:
            game.step(int(rng.choice(np.flatnonzero(game.marks.sum(0) == 0))))
        if its_turn:
            seen = [game.observe(game.agent_selection) for game in its_turn]
            keys = {key: np.stack([one[key] for one in seen]).astype(bool) for key in seen[0]}
            keys[ON_TURN] = np.ones((len(its_turn), 1), bool)
            agent.reset()
            for game, action in zip(its_turn, agent.act(keys, deterministic=True).tolist(), strict=True):
                game.step(action)
                moves += 1
        for game, side in tables:
            if any(game.terminations.values()):
                reward = game.rewards[game.possible_agents[side]]
                results["won" if reward > 0 else "lost" if reward < 0 else "drawn"] += 1
        tables = [(game, side) for game, side in tables if not any(game.terminations.values())]
    return results | {"moves": moves}


def main() -> None:
    """Play, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", help="a run folder, or a checkpoint")
    parser.add_argument("games", metavar="GAMES", nargs="?", type=int, default=GAMES, help=f"how many games ({GAMES})")
    options = parser.parse_args()
    if options.games < 1:
        parser.error(f"GAMES must be at least 1, got {options.games}")
    played = play(oatmill.load(options.run), options.games)
    print(f"{played}: {1 - played['lost'] / options.games:.2%} not lost, no illegal move")


if __name__ == "__main__":
    main()
