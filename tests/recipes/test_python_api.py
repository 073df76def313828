from __future__ import annotations

from typing import Any, cast

import gymnasium
import pytest

import oatmill
from oatmill.errors import UserError
from recipes import cartpole
from runner.observer import PlainObserver


def test_an_environment_object_is_refused_in_one_line() -> None:
    env: Any = gymnasium.make("CartPole-v1")
    with pytest.raises(UserError, match="env must be an id, module:function or a function, got TimeLimit"):
        oatmill.train(env=env)


def test_settings_that_are_no_mapping_are_refused_in_one_line() -> None:
    settings: Any = ["trainer.gamma=0.9"]
    with pytest.raises(UserError, match=r"settings must be a mapping such as .*, got list"):
        oatmill.train("cartpole", settings=settings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"recipe": 3}, "recipe must be text or None, got 3 (int)"),
        ({"env": 3}, "env must be an id, module:function or a function, got int"),
        ({"preset": ["tuned"]}, "preset must be text or None, got ['tuned'] (list)"),
        ({"config": {"trainer": {}}}, "config must be text or a path or None, got {'trainer': {}} (dict)"),
        ({"actors": "2"}, "actors must be a whole number or None, got '2' (str)"),
        ({"learners": 1.5}, "learners must be a whole number or None, got 1.5 (float)"),
        ({"seed": True}, "seed must be a whole number or None, got true (bool)"),
        ({"run_dir": 3}, "run_dir must be text or a path or None, got 3 (int)"),
        ({"resume": "yes"}, "resume must be True or False, got 'yes' (str)"),
        ({"trust": 1}, "trust must be True or False, got 1 (int)"),
        ({"listen": 5555}, "listen must be text, got 5555 (int)"),
        ({"insecure": None}, "insecure must be True or False, got null (NoneType)"),
        ({"keys": 3}, "keys must be text or a path or None, got 3 (int)"),
        ({"log_level": "loud"}, "log_level must be one of debug, info, warning, error, got 'loud'"),
        ({"log_level": ["info"]}, "log_level must be one of debug, info, warning, error, got ['info']"),
        (
            {"observer": 3},
            "observer must be an object with the methods started, reported, noted, failed, ended, such as one of "
            "runner.observer.PlainObserver, got 3 (int)",
        ),
        ({"settings": {3: 4}}, "the names of settings must be text, such as trainer.gamma, got 3"),
    ],
)
def test_an_argument_of_a_wrong_type_is_refused_in_one_line(arguments: dict[str, Any], message: str) -> None:
    named = {"recipe": None if "env" in arguments else "cartpole", **arguments}
    with pytest.raises(UserError) as refusal:
        oatmill.train(**named)
    assert str(refusal.value) == message


def test_an_observers_class_is_not_an_observer() -> None:
    observer: Any = PlainObserver
    with pytest.raises(UserError, match=r"got <class .*PlainObserver'> \(a class; call it to make an object\)$"):
        oatmill.Run(cartpole.settings()).start(observer=observer)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": 3}, "path must be text or a path, got 3 (int)"),
        ({"path": "runs/latest", "seed": "1"}, "seed must be a whole number, got '1' (str)"),
        ({"path": "runs/latest", "trust": "yes"}, "trust must be True or False, got 'yes' (str)"),
    ],
)
def test_what_cannot_be_loaded_by_its_type_is_refused_in_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as refusal:
        oatmill.load(**arguments)
    assert str(refusal.value) == message


def test_a_run_is_made_of_settings() -> None:
    settings: Any = {"env": {"id": "CartPole-v1"}}
    with pytest.raises(UserError, match=r"^settings must be RunSettings, got .* \(dict\)$"):
        oatmill.Run(settings)
    with pytest.raises(UserError, match=r"^settings must be a mapping such as .*, got 3$"):
        oatmill.RunSettings.of(cast("Any", 3))
