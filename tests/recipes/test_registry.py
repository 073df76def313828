"""Recipes: built in, a user's own, and in Python as the guide writes it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from actors.settings import AtariEnv, CogsEnv, MiniGridEnv
from oatmill.errors import SettingsError, UserError
from recipes.cogs_v_clips import train
from recipes.presets import find_preset
from recipes.registry import BUILT_IN, find_recipe
from runner.evaluation.baselines import random_return
from runner.run import Run

ROOT = Path(__file__).resolve().parents[2]


def test_the_recipes_that_the_guide_names_are_there() -> None:
    assert {"cartpole", "lunar_lander", "minigrid_doorkey", "cogs_v_clips", "atari_pong"} <= BUILT_IN.keys()
    for recipe in BUILT_IN.values():
        losses = recipe.settings().trainer.losses
        enabled = [name for name in type(losses).model_fields if getattr(losses, name).enabled]
        assert enabled == ["ppo_critic", "ppo_actor"]  # the guide's baseline
        assert "\n" not in recipe.summary


def test_the_python_form_of_the_guide_is_checked_on_assignment() -> None:
    run = train(num_cogs=4, mission="easy_hearts")
    run.trainer.losses.cmpo.enabled = True
    run.trainer.losses.cmpo.kl_coef = 0.01
    assert isinstance(run.env, CogsEnv)
    assert (run.env.num_cogs, run.env.mission) == (4, "easy_hearts")
    with pytest.raises(ValueError, match=r"^trainer\.losses\.cmpo\.kl_coef must be a finite number of at least 0, got -0\.01$"):
        run.trainer.losses.cmpo.kl_coef = -0.01
    assert run.trainer.losses.cmpo.kl_coef == 0.01


def test_a_recipes_own_arguments_are_checked_in_the_same_words() -> None:
    with pytest.raises(SettingsError, match=r"^env.mission must be one of easy_hearts_small, easy_hearts, got 'hard'$"):
        train(mission="hard")


def test_an_unknown_recipe_or_preset_names_the_nearest() -> None:
    with pytest.raises(UserError, match="there is no recipe 'cogs_vs_clips'; the nearest is cogs_v_clips"):
        find_recipe("cogs_vs_clips")
    with pytest.raises(UserError, match="there is no preset 'conservativ'; the nearest is conservative"):
        find_preset("conservativ")


OWN = """
from recipes.cartpole import settings as cartpole, train as run
def good(): return cartpole()
def plain(): return {"env": {"kind": "cogs"}}
def wrong(): return 3
def broken(): return {"env": {"kind": "cogs", "num_cogs": 0}}
def raises(): raise KeyError("lost")
value = 4
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_recipe_module.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.mark.usefixtures("own")
def test_a_recipe_of_the_users_own_is_found_in_the_current_folder() -> None:
    for function in ("good", "run"):
        assert find_recipe(f"own_recipe_module:{function}").settings().env.kind == "gymnasium"
    assert find_recipe("own_recipe_module:plain").settings().env.kind == "cogs"


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_recipe_module:wrong", "must return RunSettings, a Run or nested values, got int"),
        ("own_recipe_module:broken", "env.num_cogs must be a whole number from 1 to 24, got 0"),
        ("own_recipe_module:raises", "recipe own_recipe_module:raises raised KeyError: 'lost'"),
        ("own_recipe_module:value", "own_recipe_module has no function value"),
        ("own_recipe_module:nothing", "own_recipe_module has no function nothing"),
        ("no_such_module:settings", "module no_such_module cannot be imported (ModuleNotFoundError"),
    ],
)
def test_what_is_wrong_with_a_recipe_of_the_users_own_is_said_in_one_line(name: str, message: str) -> None:
    with pytest.raises(UserError) as refusal:
        find_recipe(name).settings()
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_importing_the_recipes_loads_neither_torch_nor_an_environment() -> None:
    code = (
        "import sys, recipes.registry; print(*sorted({'torch', 'gymnasium', 'mettagrid', 'numpy', 'zmq'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True, timeout=120)
    assert shown.stdout.split() == []


def test_the_random_policys_return_is_said_only_of_what_it_was_measured_on() -> None:
    cogs = CogsEnv()
    assert random_return(cogs) == 1.42
    cogs.num_cogs = 3
    assert random_return(cogs) is None
    assert random_return(BUILT_IN["cartpole"].settings().env) is not None
    pong, door = AtariEnv(screen_size=42), MiniGridEnv()
    assert (random_return(pong), random_return(door)) == (-20.1, 0.02)
    pong.repeat_action_probability, door.max_steps = 0.25, 100
    assert (random_return(pong), random_return(door)) == (None, None)
    assert random_return(AtariEnv(frame_skip=2)) is None


def test_a_run_has_the_roots_as_attributes() -> None:
    run = Run(BUILT_IN["cartpole"].settings())
    for root in ("env", "agent", "actors", "replay", "trainer", "metrics"):
        assert getattr(run, root) is getattr(run.settings, root)


def test_an_id_of_gymnasium_in_the_place_of_a_recipe_is_answered_with_the_right_option() -> None:
    with pytest.raises(UserError, match=r"there is no recipe 'CartPole-v1'; .* write `--env CartPole-v1`"):
        find_recipe("CartPole-v1")
