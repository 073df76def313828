"""`env.wrappers`: what each does to a small environment, their order, and what is refused."""
# ruff: noqa: ARG002 -- the signatures are Gymnasium's

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from actors.environments.adapters.gymnasium import has_vector_class
from actors.environments.base import Environment
from actors.environments.filming import make_film
from actors.environments.make import make_environment
from actors.environments.wrappers import WRAPPERS
from actors.settings import WRAPPERS as NAMES
from actors.settings import FactoryEnv, GymnasiumEnv
from oatmill.errors import UserError
from runner.settings import RunSettings

COUNTER = "tests.actors.environments.toy_environments:Counter"
HERE = "tests.actors.environments.test_wrappers"
ONE, ZERO = np.array([1]), np.array([0])


class Picture(gymnasium.Env[Any, Any]):  # type: ignore[misc]
    """An image whose pixels are all the number of steps taken (modulo 256); the reward is the action."""

    action_space = Discrete(8)

    def __init__(self, shape: tuple[int, ...] = (6, 6, 3)) -> None:
        self.observation_space = Box(0, 255, tuple(shape), np.uint8)
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._shown(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self._shown(), float(action), False, False, {}

    def _shown(self) -> Any:
        return np.full(self.observation_space.shape, self.steps % 256, np.uint8)


def negated(env: Any, by: float = -1.0) -> Any:
    """A user's own wrapper."""
    return gymnasium.wrappers.TransformReward(env, lambda reward: by * reward)


def not_a_wrapper(env: Any) -> str:
    return str(env)


def counter(*wrappers: str | dict[str, Any], length: int = 100) -> Environment:
    return make_environment(FactoryEnv(factory=COUNTER, kwargs={"length": length}, wrappers=list(wrappers)), copies=1, seed=1)


def picture(*wrappers: str | dict[str, Any], shape: list[int] | None = None) -> Environment:
    kwargs = {} if shape is None else {"shape": shape}
    return make_environment(FactoryEnv(factory=f"{HERE}:Picture", kwargs=kwargs, wrappers=list(wrappers)), copies=1, seed=1)


def test_the_settings_know_exactly_the_names_that_there_are() -> None:
    assert set(NAMES) == set(WRAPPERS)


def test_a_time_limit_truncates() -> None:
    environment = counter({"name": "time_limit", "max_episode_steps": 2})
    environment.reset()
    assert [bool(environment.step(ZERO).truncated[0]) for _ in range(4)] == [False, True, False, True]


def test_vectors_are_stacked_with_the_newest_last() -> None:
    environment = counter({"name": "frame_stack", "stack_size": 3})
    assert environment.spaces.observation.shape == (3,)
    assert environment.reset().tolist() == [[0, 0, 0]]
    assert [environment.step(ZERO).observations.tolist() for _ in range(3)] == [[[0, 0, 1]], [[0, 1, 2]], [[1, 2, 3]]]


@pytest.mark.parametrize("shape", [(6, 6, 3), (3, 6, 6)])
def test_images_with_channels_are_stacked_along_them(shape: tuple[int, ...]) -> None:
    environment = picture("frame_stack", shape=list(shape))
    assert environment.spaces.observation.shape == (12, 6, 6)
    environment.reset()
    environment.step(ZERO)
    assert environment.step(ZERO).observations[0, :, 0, 0].tolist() == [0] * 6 + [1] * 3 + [2] * 3


def test_grey_resized_and_stacked_images_are_what_the_usual_networks_take() -> None:
    pytest.importorskip("cv2")
    environment = picture("grey", "resize", "frame_stack", shape=[96, 100, 3])
    assert environment.spaces.observation.shape == (4, 84, 84)
    assert environment.reset().dtype == np.uint8


def test_rewards_are_clipped_and_a_users_own_wrapper_comes_where_it_stands() -> None:
    own: dict[str, Any] = {"name": f"{HERE}:negated", "by": -3.0}
    cases: list[list[str | dict[str, Any]]] = [["reward_clip"], [own], ["reward_clip", own], [own, "reward_clip"]]
    gained = [picture_step(wrappers, 5) for wrappers in cases]
    # By hand: 5 clipped is 1; 5 * -3; 1 * -3; -15 clipped is -1.
    assert gained == [1, -15, -3, -1]


def picture_step(wrappers: list[str | dict[str, Any]], action: int) -> float:
    environment = picture(*wrappers)
    environment.reset()
    return float(environment.step(np.array([action])).rewards[0])


def test_an_action_is_held_for_some_frames_and_their_rewards_are_added() -> None:
    environment = picture({"name": "max_and_skip", "skip": 3})
    environment.reset()
    step = environment.step(np.array([2]))
    assert (step.rewards.tolist(), int(step.observations.max())) == ([6], 3)


def test_a_repeated_action_ends_with_the_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    limited: list[str | dict[str, Any]] = [{"name": "time_limit", "max_episode_steps": 5}, "repeat_action"]
    environment = picture(*limited)
    environment.reset()
    for expected in ((8, False), (2, True)):
        step = environment.step(np.array([2]))
        assert (float(step.rewards[0]), bool(step.truncated[0])) == expected
    monkeypatch.delattr("gymnasium.wrappers.RepeatAction")
    with pytest.raises(UserError, match=r"^env\.wrappers: repeat_action needs gymnasium 1\.3 or newer, got \d"):
        picture("repeat_action")


def test_sticky_actions_repeat_the_action_before_as_often_as_they_should() -> None:
    environment = picture({"name": "sticky_actions", "repeat_action_probability": 0.25})
    environment.reset()
    rewards = [float(environment.step(np.array([t % 2])).rewards[0]) for t in range(4000)]
    held = np.mean([reward != t % 2 for t, reward in enumerate(rewards)][1:])
    # An action differs from the one taken where the step before is repeated, unless that one held this action's value too:
    # the chance p solves p = 0.25 * (1 - p), so it is 0.2; 4,000 draws have a deviation of 0.0063.
    assert abs(held - 0.2) < 5 * 0.0063


def test_copies_are_stepped_one_by_one_where_they_are_wrapped() -> None:
    wrapped = GymnasiumEnv(id="CartPole-v1", wrappers=[{"name": "time_limit", "max_episode_steps": 3}])
    assert (has_vector_class(GymnasiumEnv(id="CartPole-v1")), has_vector_class(wrapped)) == (True, False)
    environment = make_environment(wrapped, copies=2, seed=1)
    environment.reset()
    assert [environment.step(np.array([0, 1])).truncated.tolist() for _ in range(3)][-1] == [True, True]


def test_what_is_filmed_is_wrapped() -> None:
    limited: list[str | dict[str, Any]] = [{"name": "time_limit", "max_episode_steps": 1}]
    film = make_film(FactoryEnv(factory="examples.corridor:make_env", wrappers=limited), seed=1)
    film.environment.reset()
    assert film.environment.step(ZERO).truncated.tolist() == [True]


@pytest.mark.parametrize(
    ("wrapper", "message"),
    [
        ({"name": "time_limit"}, "^env.wrappers: time_limit cannot be put around .*max_episode_steps"),
        ({"name": "time_limit", "steps": 3}, "^env.wrappers: time_limit cannot be put around .*steps"),
        ("grey", "^env.wrappers: grey cannot be put around "),
        (f"{HERE}:not_a_wrapper", "to return a gymnasium.Env, got str$"),
        (f"{HERE}:nothing", f"^env.wrappers {HERE}:nothing: {HERE} has no function nothing"),
    ],
)
def test_a_wrapper_that_cannot_be_used_is_refused(wrapper: str | dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        counter(wrapper)


def test_a_vector_env_is_not_wrapped() -> None:
    settings = FactoryEnv(factory="tests.actors.environments.own_seeds:vector", wrappers=["reward_clip"])
    with pytest.raises(UserError, match=r"env\.wrappers wraps single copies, but the function returns a VectorEnv"):
        make_environment(settings, copies=2, seed=1)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"wrappers": ["frame_stak"]}, "each wrapper must be one of .*, got 'frame_stak'; the nearest is frame_stack$"),
        ({"wrappers": [{"size": 3}]}, r"each wrapper must be .*, got \{'size': 3\}$"),
        (
            {"wrappers": ["grey"], "vectorization": "vector_entry_point"},
            "env.wrappers wraps single copies; expected env.vectorization=sync or auto, got vector_entry_point$",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(env: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        RunSettings.of({"env": {"kind": "gymnasium", "id": "CartPole-v1"} | env})
