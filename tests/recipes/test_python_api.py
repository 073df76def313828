from __future__ import annotations

from typing import Any

import gymnasium
import pytest

import oatmill
from oatmill.errors import UserError


def test_an_environment_object_is_refused_in_one_line() -> None:
    env: Any = gymnasium.make("CartPole-v1")
    with pytest.raises(UserError, match="env must be an id, module:function or a function, got TimeLimit"):
        oatmill.train(env=env)


def test_settings_that_are_no_mapping_are_refused_in_one_line() -> None:
    settings: Any = ["trainer.gamma=0.9"]
    with pytest.raises(UserError, match=r"settings must be a mapping such as .*, got list"):
        oatmill.train("cartpole", settings=settings)
