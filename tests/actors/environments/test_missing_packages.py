"""A package that is missing is named with its own extra, whichever environment asks for it."""

from __future__ import annotations

import sys

import pytest

from actors.environments.make import EXTRAS, make_environment, refusals
from actors.settings import (
    AtariEnv,
    CogsEnv,
    DmcEnv,
    EnvPoolEnv,
    EnvSettings,
    FactoryEnv,
    GymnasiumEnv,
    MinAtarEnv,
    MiniGridEnv,
)
from oatmill.errors import UserError


@pytest.mark.parametrize(
    ("env", "module", "extra"),
    [
        (GymnasiumEnv(id="HalfCheetah-v5"), "mujoco", "mujoco"),
        (GymnasiumEnv(id="LunarLander-v3"), "Box2D", "box2d"),
        (MinAtarEnv(), "minatar", "minatar"),
        (DmcEnv(), "dm_control", "dmc"),
        (EnvPoolEnv(id="Pong-v5"), "envpool", "envpool"),
        (AtariEnv(), "ale_py", "atari"),
        (MiniGridEnv(), "minigrid", "minigrid"),
        (CogsEnv(), "mettagrid", "cogs"),
        (FactoryEnv(factory="tests.actors.environments.test_wrappers:Picture", wrappers=["resize"]), "cv2", "wrappers"),
    ],
)
def test_the_extra_of_the_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, env: EnvSettings, module: str, extra: str
) -> None:
    for name in [name for name in sys.modules if name == module or name.startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.startswith("actors.environments.adapters.")]:
        monkeypatch.delitem(sys.modules, name)
    for name in [
        name for name in sys.modules if name.startswith("gymnasium.envs.") and name.split(".")[2] in ("mujoco", "box2d")
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    with pytest.raises(UserError) as refusal:
        make_environment(env, copies=1, seed=1)
    assert str(refusal.value).endswith(f"pip install 'oatmill[{extra}]'")
    assert not any(f"oatmill[{other}]" in str(refusal.value) for other in set(EXTRAS.values()) - {extra})


def test_a_module_of_the_users_own_that_is_missing_has_no_extra() -> None:
    with pytest.raises(UserError) as refusal, refusals(GymnasiumEnv(id="Maze-v0")):
        raise ModuleNotFoundError("No module named 'maze'", name="maze")
    assert "oatmill[" not in str(refusal.value)
