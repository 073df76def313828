from __future__ import annotations

import numpy as np
import pytest

from actors.environments.checks import begin
from actors.environments.filming import make_film
from actors.environments.make import describe, make_environment
from actors.settings import MinAtarEnv

pytest.importorskip("minatar")


@pytest.mark.parametrize(
    ("game", "channels", "actions"),
    [("asterix", 4, 5), ("breakout", 4, 3), ("freeway", 7, 3), ("seaquest", 10, 6), ("space_invaders", 6, 4)],
)
def test_each_game_is_an_image_with_a_channel_for_each_kind_of_object(game: str, channels: int, actions: int) -> None:
    spaces, _ = describe(MinAtarEnv.model_validate({"game": game}))
    assert (spaces.observation.kind, spaces.observation.shape) == ("image", (channels, 10, 10))
    assert spaces.action.sizes == (actions,)
    full, _ = describe(MinAtarEnv.model_validate({"game": game, "full_action_space": True}))
    assert full.action.sizes == (6,)


def test_the_seed_decides_a_whole_game() -> None:
    def played(seed: int) -> list[bytes]:
        environment = make_environment(MinAtarEnv(), copies=2, seed=seed)
        environment.reset()
        return [environment.step(np.full(2, t % 3, np.int32)).observations.tobytes() for t in range(40)]

    assert played(1) == played(1) != played(2)


def test_a_game_can_be_filmed() -> None:
    film = make_film(MinAtarEnv(), seed=1)
    begin(film.environment)
    pictures = film.take(ended=False)
    assert pictures[0].shape == (10, 10, 3)
