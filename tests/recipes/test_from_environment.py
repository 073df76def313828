"""Training without a recipe: what `--env` names, the settings that its spaces get, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from actors.environments.make import describe
from actors.settings import AtariEnv, EnvSettings, FactoryEnv, GymnasiumEnv, MiniGridEnv, PettingZooEnv
from oatmill.errors import UserError
from protocol.data.spaces import ActionSpace, ObservationSpace, Spaces
from recipes.from_environment import environment_of, path_of, settings_for
from recipes.resolve import resolve_run
from runner.run import Run
from runner.settings import RunSettings
from tests.actors.environments.own_seeds import Draws, deaf


@pytest.mark.parametrize(
    ("named", "env"),
    [
        ("CartPole-v1", GymnasiumEnv(id="CartPole-v1")),
        ("gymnasium:CartPole-v1", GymnasiumEnv(id="CartPole-v1")),
        ("ale_py:ALE/Pong-v5", GymnasiumEnv(id="ale_py:ALE/Pong-v5")),
        ("my_registry:Mine-v0", GymnasiumEnv(id="my_registry:Mine-v0")),
        ("gymnasium:my_registry:Mine-v0", GymnasiumEnv(id="my_registry:Mine-v0")),
        ("my_env:make", FactoryEnv(factory="my_env:make")),
        ("my.envs:Maze.easy", FactoryEnv(factory="my.envs:Maze.easy")),
        ("pettingzoo:my_game:make", PettingZooEnv(factory="my_game:make")),
        ("atari:ms_pacman", AtariEnv(game="ms_pacman")),
        ("minigrid:MiniGrid-Empty-5x5-v0", MiniGridEnv(id="MiniGrid-Empty-5x5-v0")),
    ],
)
def test_what_an_environment_is_called_says_its_kind(named: str, env: EnvSettings) -> None:
    assert RunSettings.of({"env": environment_of(named)}).env.model_dump() == env.model_dump()


@pytest.mark.parametrize(
    ("observation", "expected"),
    [
        (ObservationSpace("vector", (4,), "float32"), {"hidden_sizes": (64, 64), "normalize_observations": True}),
        (ObservationSpace("image", (4, 84, 84), "uint8"), {"activation": "relu", "normalize_observations": False}),
        (ObservationSpace("tokens", (200, 3), "uint8"), {"activation": "relu", "normalize_observations": False}),
    ],
)
def test_each_kind_of_observation_gets_its_network(observation: ObservationSpace, expected: dict[str, Any]) -> None:
    values = settings_for(Spaces(observation, ActionSpace((2,))))
    agent = RunSettings.of({"env": environment_of("CartPole-v1"), **values}).agent
    assert {name: getattr(agent, name) for name in expected} == expected


def test_continuous_actions_get_a_value_network_of_their_own_and_no_entropy_bonus() -> None:
    spaces = describe(GymnasiumEnv(id="Pendulum-v1"))[0]
    run = RunSettings.of({"env": environment_of("Pendulum-v1"), **settings_for(spaces)})
    assert (run.agent.value_trunk, run.trainer.losses.ppo_actor.ent_coef) == ("separate", 0.0)


def run_of(recipe: str | None, *assignments: str, env: str | None = None, **settings: Any) -> Run:
    return resolve_run(recipe, list(assignments), env=env, preset=None, config=None, flags={}, settings=settings)


def test_a_run_without_a_recipe_takes_what_the_command_says_over_what_was_chosen() -> None:
    run = run_of("trainer.gamma=0.5", "trainer.epochs=2", env="CartPole-v1", agent={"hidden_sizes": [32]})
    assert run.recipe == "CartPole-v1"
    assert (run.trainer.gamma, run.trainer.epochs, run.agent.hidden_sizes) == (0.5, 2, (32,))
    assert run.trainer.minibatches == 4, "what nothing overrides was chosen by the spaces"


def test_what_the_command_says_of_the_environment_counts_when_it_is_looked_at() -> None:
    env = "tests.actors.environments.scripted:make_picture"
    with pytest.raises(UserError, match=r"set env\.channels=first or env\.channels=last"):
        run_of(None, "env.kwargs={shape: [10, 10, 6]}", env=env)
    run = run_of(None, "env.kwargs={shape: [10, 10, 6]}", "env.channels=last", env=env)
    assert run.agent.activation == "relu"


def test_an_id_that_a_package_registers_only_when_it_is_imported_is_found() -> None:
    run = run_of(None, env="ALE/Pong-v5")
    assert (run.env.kind, run.agent.activation) == ("gymnasium", "relu")


@pytest.mark.parametrize(
    ("recipe", "env", "message"),
    [
        ("cartpole", "CartPole-v1", r"^expected a recipe or an environment, got both \(cartpole and --env CartPole-v1\)"),
        (None, None, "^Missing argument 'RECIPE': expected a recipe or --env"),
        (None, "cartpole", r"^expected an environment, got cartpole, which is a recipe; write cartpole, without --env$"),
        (None, "lunar-lander", r"got lunar-lander, which is a recipe; write lunar_lander, without --env$"),
        (None, " ", "^--env must be an id such as CartPole-v1, .* got nothing"),
        (None, "CartPol-v1", "^env.id=CartPol-v1 could not be built: .*CartPole"),
        (None, "no_such_module:make", "^env.factory no_such_module:make: module no_such_module cannot be imported"),
    ],
)
def test_what_names_no_environment_is_refused(recipe: str | None, env: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_of(recipe, env=env)


def test_a_function_or_a_class_at_the_top_of_a_file_is_named_by_its_module() -> None:
    assert path_of(deaf) == "tests.actors.environments.own_seeds:deaf"
    assert path_of(Draws) == "tests.actors.environments.own_seeds:Draws"


def test_what_the_processes_of_a_run_cannot_import_is_refused() -> None:
    def inner() -> Draws:
        return Draws()

    for function in (inner, lambda: Draws(1)):
        with pytest.raises(UserError, match=r"cannot import; expected a function at the top of a file"):
            path_of(function)
    with pytest.raises(UserError, match=r"^env must be an id, module:function or a function, got Draws"):
        path_of(Draws())
