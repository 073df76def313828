from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from numpy.typing import NDArray

from actors.environments.adapters.gymnasium import GymnasiumEnvironment
from actors.environments.base import Environment, Episode
from actors.environments.checks import first_observations
from actors.environments.make import EXTRAS, describe, make_environment
from actors.environments.steppers import CartPoleStepper, NextStepStepper, SyncStepper
from actors.settings import CogsEnv, FactoryEnv, GymnasiumEnv
from oatmill.errors import UserError

TOYS = "tests.actors.environments.toy_environments"


def factory(function: str, **kwargs: Any) -> FactoryEnv:
    return FactoryEnv(factory=f"{TOYS}:{function}", kwargs=kwargs)


def started(settings: FactoryEnv | GymnasiumEnv, copies: int, seed: int = 0) -> Environment:
    environment = make_environment(settings, copies=copies, seed=seed)
    first_observations(environment)
    return environment


SAME_STEP_WAYS = {
    "copies stepped one by one": factory("Counter"),
    "SAME_STEP": factory("make_counters", mode="SAME_STEP"),
    "DISABLED": factory("make_counters", mode="DISABLED"),
}


@pytest.mark.parametrize("settings", SAME_STEP_WAYS.values(), ids=SAME_STEP_WAYS)
def test_an_episode_that_is_cut_restarts_in_the_same_step_and_shows_its_final_observation(settings: FactoryEnv) -> None:
    environment = started(settings, copies=2)
    for count in (1, 2):
        step = environment.step(np.array([0, 1]))
        assert step.observations.tolist() == [[count], [count]]
        assert not step.truncated.any()
        assert len(step.final_rows) == len(step.final_observations) == len(step.episodes) == 0
    step = environment.step(np.array([0, 1]))
    assert step.observations.tolist() == [[0], [0]]
    assert step.final_observations.tolist() == [[3], [3]]
    assert step.final_rows.tolist() == [0, 1]
    assert step.truncated.tolist() == [True, True]
    assert not step.terminated.any()
    assert step.valid.all()
    # Rewards are 1 + action, three steps each.
    assert step.episodes == [Episode(3.0, 3), Episode(6.0, 3)]
    assert environment.step(np.array([0, 1])).observations.tolist() == [[1], [1]]


@pytest.mark.parametrize("ends", ["terminated", "both"])
@pytest.mark.parametrize("function", ["Counter", "make_counters"])
def test_an_episode_that_terminates_has_no_final_observation(function: str, ends: str) -> None:
    kwargs = {"mode": "SAME_STEP"} if function == "make_counters" else {}
    environment = started(factory(function, length=1, ends=ends, **kwargs), copies=1)
    step = environment.step(np.array([0]))
    assert step.terminated.tolist() == [True]
    assert step.truncated.tolist() == [ends == "both"]
    assert len(step.final_rows) == len(step.final_observations) == 0
    assert step.episodes == [Episode(1.0, 1)]


def test_the_step_that_a_vectorised_class_spends_on_a_reset_is_absent() -> None:
    environment = started(factory("make_counters", mode="NEXT_STEP"), copies=1)
    assert isinstance(environment, GymnasiumEnvironment)
    assert isinstance(environment._stepper, NextStepStepper)
    actions = np.array([1])
    environment.step(actions)
    environment.step(actions)
    ended = environment.step(actions)
    assert ended.final_observations.tolist() == [[3]]
    assert ended.episodes == [Episode(6.0, 3)]
    absent = environment.step(actions)
    assert absent.observations.tolist() == [[0]]
    assert (absent.valid.tolist(), absent.terminated.tolist(), absent.truncated.tolist()) == ([False], [True], [False])
    assert absent.rewards.tolist() == [0]
    assert absent.episodes == ()
    # The absent step counts for nothing in the next episode.
    environment.step(actions)
    environment.step(actions)
    assert environment.step(actions).episodes == [Episode(6.0, 3)]


def balance(observations: NDArray[np.float32]) -> NDArray[np.int64]:
    """Keeps a pole up for 500 steps: push to where it leans and falls."""
    return np.where(observations[:, 2] + 0.5 * observations[:, 3] + 0.02 * observations[:, 1] > 0, 1, 0)


def test_the_vectorised_cartpole_does_what_single_ones_do() -> None:
    rows = 8
    environment = started(GymnasiumEnv(id="CartPole-v1"), copies=rows, seed=3)
    assert isinstance(environment, GymnasiumEnvironment)
    stepper = environment._stepper
    assert isinstance(stepper, CartPoleStepper)
    singles = [gymnasium.make("CartPole-v1") for _ in range(rows)]

    def restart(row: int) -> None:
        singles[row].reset()
        singles[row].unwrapped.state = stepper._env.state[:, row].copy()

    for row in range(rows):
        restart(row)
    lengths = np.zeros(rows, int)
    observations = stepper._env.state.T.astype(np.float32)
    rng = np.random.default_rng(0)
    ends: list[str] = []
    for _ in range(1100):
        # Half of the poles are kept up until the time limit, the others fall.
        actions = np.where(np.arange(rows) < 4, balance(observations), rng.integers(0, 2, rows))
        step = environment.step(actions)
        lengths += 1
        finals = dict(zip(step.final_rows.tolist(), step.final_observations, strict=True))
        episodes = iter(step.episodes)
        for row, single in enumerate(singles):
            observation, reward, terminated, truncated, _ = single.step(int(actions[row]))
            assert (step.rewards[row], step.terminated[row], step.truncated[row]) == (reward, terminated, truncated)
            if not terminated and not truncated:
                np.testing.assert_allclose(step.observations[row], observation, rtol=1e-6)
                continue
            ends.append("terminated" if terminated else "truncated")
            assert next(episodes) == Episode(float(lengths[row]), int(lengths[row]))
            assert truncated == (lengths[row] == 500)
            if truncated and not terminated:
                np.testing.assert_allclose(finals[row], observation, rtol=1e-6)
            assert np.all(np.abs(step.observations[row]) <= 0.05)  # CartPole starts within 0.05 of the middle
            lengths[row] = 0
            restart(row)
        assert next(episodes, None) is None
        observations = step.observations
    # Four poles stand for 1100 steps: two ends at 500 and 1000 each; four fall every 20 steps or so.
    assert ends.count("truncated") == 8
    assert ends.count("terminated") > 100


def test_cartpole_stepped_one_by_one_keeps_the_same_rules() -> None:
    environment = started(GymnasiumEnv(id="CartPole-v1", vectorization="sync"), copies=2)
    assert isinstance(environment, GymnasiumEnvironment)
    assert isinstance(environment._stepper, SyncStepper)
    observations = environment.reset()
    for count in range(1, 501):
        step = environment.step(balance(observations))
        observations = step.observations
        assert bool(step.episodes) == (count == 500)
    assert step.truncated.all()
    assert not step.terminated.any()
    assert step.episodes == [Episode(500.0, 500)] * 2
    assert np.abs(step.final_observations).max() > 0.05 > np.abs(step.observations).max()


@pytest.mark.parametrize("settings", [GymnasiumEnv(id="CartPole-v1"), factory("Seeded")], ids=["vectorised", "one by one"])
def test_copies_differ_and_a_seed_brings_the_same_episodes_back(settings: FactoryEnv | GymnasiumEnv) -> None:
    def first_steps(seed: int) -> NDArray[np.float32]:
        environment = make_environment(settings, copies=3, seed=seed)
        shown = [first_observations(environment).copy()]
        shown += [environment.step(np.zeros(3, np.int64)).observations.copy() for _ in range(3)]
        return np.stack(shown)

    one = first_steps(1)
    assert len(np.unique(one[:, :, 0])) == one[:, :, 0].size
    np.testing.assert_array_equal(one, first_steps(1))
    # Neighbouring seeds share nothing, though Gymnasium seeds copies seed, seed + 1, ...
    assert not np.isin(one, first_steps(2)).any()


def test_spaces_are_converted_on_the_way_in_and_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.actors.environments import toy_environments

    made = []

    def make() -> gymnasium.Env[Any, Any]:
        made.append(toy_environments.Fixed(spaces.Discrete(4), spaces.MultiDiscrete([2, 3], start=[0, 1]), 2))
        return made[-1]

    monkeypatch.setattr(toy_environments, "make_fixed", make, raising=False)
    environment = started(factory("make_fixed"), copies=2)
    step = environment.step(np.array([[0, 0], [1, 2]]))
    assert step.observations.tolist() == [[0, 0, 1, 0]] * 2
    assert [env.taken[0].tolist() for env in made] == [[0, 1], [1, 3]]


# Box2D's extension crashes the interpreter while it loads if this warning is an error.
@pytest.mark.filterwarnings("ignore:builtin type .* has no __module__ attribute:DeprecationWarning")
def test_lunar_lander_can_be_described() -> None:
    described, statistics = describe(GymnasiumEnv(id="LunarLander-v3"))
    assert described.observation.shape == (8,)
    assert described.action.sizes == (4,)
    assert statistics == ("is_success", "score")


def test_a_vector_env_of_a_fixed_size_is_described_without_being_asked_for_a_number() -> None:
    described, _ = describe(factory("make_two_counters"))
    assert described.observation.shape == (1,)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (GymnasiumEnv(id="CartPol-v1"), "env.id=CartPol-v1 could not be built: NameNotFound"),
        (
            GymnasiumEnv(id="Maze-v0"),
            "exist; if a module registers it, write the module before the id, such as my_module:MyEnv-v0; for a function",
        ),
        (GymnasiumEnv(id="mazes/Maze-v0"), "if a module registers it, write the module before the id"),
        (GymnasiumEnv(id="CartPole-v1", kwargs={"gravity": 1}), "env.id=CartPole-v1 could not be built: TypeError"),
        (GymnasiumEnv(id="no_such_module:Env-v0"), "env.id=no_such_module:Env-v0: module no_such_module cannot be imported"),
        (factory("make_two_counters"), "expected a VectorEnv of 3 copies, as actors.envs_per_actor says, got 2"),
        (factory("make_always_the_same"), "expected a new environment at each call, got the same one twice"),
        (factory("make_text"), "expected the function to return a gymnasium.Env or a gymnasium.vector.VectorEnv, got str"),
        (
            factory("no_such_function"),
            "tests.actors.environments.toy_environments has no function no_such_function",
        ),
        (
            factory("NOT_A_FUNCTION"),
            "tests.actors.environments.toy_environments has no function NOT_A_FUNCTION",
        ),
        (factory("Counter", colour=1), "could not be built: TypeError"),
        (FactoryEnv(factory="no_such_module.envs:make"), "module no_such_module.envs cannot be imported (ModuleNotFoundError"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(settings: FactoryEnv | GymnasiumEnv, says: str) -> None:
    with pytest.raises(UserError) as caught:
        make_environment(settings, copies=3, seed=0)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "package", "adapters", "says"),
    [
        (
            CogsEnv(),
            "mettagrid",
            ("actors.environments.adapters.cogs",),
            "env.mission=easy_hearts_small needs a package that is not installed",
        ),
        (GymnasiumEnv(id="LunarLander-v3"), "Box2D", ("gymnasium.envs.box2d",), "env.id=LunarLander-v3 needs a package"),
        (GymnasiumEnv(id="ALE/Pong-v5"), "ale_py", (), "env.id=ALE/Pong-v5 needs a package that is not installed"),
    ],
)
def test_a_missing_extra_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, settings: CogsEnv | GymnasiumEnv, package: str, adapters: tuple[str, ...], says: str
) -> None:
    for name in list(sys.modules):
        if name.startswith((*adapters, f"{package}.")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError) as caught:
        make_environment(settings, copies=1, seed=0)
    assert says in str(caught.value)
    assert f"pip install 'oatmill[{EXTRAS[package]}]'" in str(caught.value)


def test_a_vector_env_must_say_what_it_does_after_an_end() -> None:
    with pytest.raises(UserError, match=r'expected the VectorEnv to have an AutoresetMode in metadata\["autoreset_mode"\]'):
        make_environment(factory("make_nameless_mode"), copies=2, seed=0)
    with pytest.raises(UserError, match="got None; set it to the mode that the class implements"):
        make_environment(factory("make_without_metadata"), copies=2, seed=0)


def test_a_module_beside_the_command_may_register_what_an_id_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "registers_one.py").write_text(
        "import gymnasium\ngymnasium.register('Beside-v0', entry_point='tests.actors.environments.toy_environments:Counter')\n"
    )
    for vectorization in ("auto", "sync"):
        spaces, _ = describe(GymnasiumEnv(id="registers_one:Beside-v0", vectorization=vectorization))
        assert spaces.observation.shape == (1,)
    with pytest.raises(UserError, match=r"^env\.id=no_such_module:A-v0: module no_such_module cannot be imported"):
        describe(GymnasiumEnv(id="no_such_module:A-v0"))


def test_an_observation_of_another_shape_in_a_step_is_not_spread_over_the_row() -> None:
    environment = started(factory("Fails", how="wrong shape in step"), copies=1)
    with pytest.raises(ValueError, match=r"expected an observation of shape \(1,\), got \(3,\)"):
        environment.step(np.array([0]))
