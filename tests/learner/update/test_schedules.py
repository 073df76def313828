"""Schedules of the learning rate and of coefficients: values by hand, and what a learner step trains with."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from learner.loss_descriptor import BUILT_IN, LossDescriptor
from learner.plan import make_plan
from learner.settings import TrainerSettings
from learner.update.objective import Objective
from learner.update.schedules import coefficient_factors, factor, learning_rate
from oatmill.errors import SettingsError
from recipes.resolve import resolve_run
from tests.learner.worlds import learn, make_batch, make_spec, make_trainer, make_updater_of

POINTS = ((0.1, 0.0), (0.2, 1.0), (0.6, 0.5))


@pytest.mark.parametrize(
    ("schedule", "done", "expected"),
    [
        ("constant", 0.7, 1.0),
        ("linear", 0.25, 0.75),
        ("linear", 1.5, 0.0),  # the last batch may go over the budget
        ("cosine", 0.0, 1.0),
        ("cosine", 0.25, (1 + math.sqrt(0.5)) / 2),
        ("cosine", 1.0, 0.0),
        ("piecewise", 0.0, 0.0),  # before the first point: its factor
        ("piecewise", 0.15, 0.5),
        ("piecewise", 0.2, 1.0),
        ("piecewise", 0.4, 0.75),
        ("piecewise", 0.9, 0.5),  # after the last point: its factor
    ],
)
def test_factors_by_hand(schedule: str, done: float, expected: float) -> None:
    assert factor(schedule, POINTS, done) == pytest.approx(expected, abs=1e-12)


def test_the_learning_rate_follows_its_schedule() -> None:
    trainer = make_trainer("baseline", {"total_timesteps": 1000, "optimizer.learning_rate": 0.5})
    assert learning_rate(trainer, 250) == 0.375
    trainer.optimizer.schedule, trainer.optimizer.schedule_points = "piecewise", POINTS
    assert learning_rate(trainer, 400) == pytest.approx(0.375)


def test_a_schedule_is_given_by_setting_or_by_loss_and_an_own_loss_has_a_default() -> None:
    losses = {name: BUILT_IN[name] for name in ("ppo_critic", "ppo_actor")} | {
        "own": LossDescriptor("own", schedule="linear"),
        "other": LossDescriptor("other", schedule="linear"),
    }
    trainer = make_trainer("baseline", {"total_timesteps": 100})
    trainer.coef_schedules = {"ent_coef": "linear", "ppo_critic": ((0, 1), (1, 3)), "other": "constant"}
    assert coefficient_factors(trainer, losses, 25) == {
        ("ppo_actor", "entropy"): 0.75,
        ("ppo_critic", ""): 1.5,
        ("own", ""): 0.75,
        ("other", ""): 1.0,
    }


def test_the_scheduled_coefficient_alone_weighs_less_in_the_objective() -> None:
    trainer, spec = make_trainer("baseline", {"losses.ppo_actor.ent_coef": 0.2}), make_spec()
    updater = make_updater_of(trainer, spec)
    learn(updater, make_batch(spec))
    before = dict(updater.objective.coefs)
    updater.context.scheduled.update({("ppo_actor", "entropy"): 0.25, ("ppo_critic", ""): 0.5})
    learn(updater, make_batch(spec))
    after = updater.objective.coefs
    assert after["ppo_actor", "entropy"] == pytest.approx(0.25 * before["ppo_actor", "entropy"])
    assert after["ppo_actor", "entropy"] == pytest.approx(-0.05)
    assert after["ppo_actor", "policy"] == before["ppo_actor", "policy"]
    assert after["ppo_critic", "value"] == pytest.approx(0.5 * before["ppo_critic", "value"])


def test_a_coefficient_of_zero_trains_as_if_the_loss_were_not_there() -> None:
    spec = make_spec()
    one = make_updater_of(make_trainer("muesli_cmpo"), spec)
    one.context.scheduled.update({("cmpo", ""): 0.0, ("muesli_model", ""): 0.0})
    other = make_updater_of(make_trainer("baseline"), spec)
    learn(one, make_batch(spec))
    learn(other, make_batch(spec))
    pairs = zip(one.context.model.policy.parameters(), other.context.model.policy.parameters(), strict=True)
    assert all(torch.allclose(first, second, atol=1e-6) for first, second in pairs)
    assert isinstance(one.objective, Objective)


def planned(changes: dict[str, Any]) -> TrainerSettings:
    trainer, spec = make_trainer("baseline", changes), make_spec()
    make_plan(trainer, spec.settings, spec.spaces.action)
    return trainer


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"coef_schedules": {"kl_coef": "linear"}},
            r"coef_schedules.kl_coef names no coefficient of this run's losses; use one of",
        ),
        (
            {"coef_schedules": {"ent_coef": [[0.5, 1], [0.1, 0]]}},
            r"coef_schedules.ent_coef must be a list of .*got \[\[0.5, 1.0\]",
        ),
        ({"coef_schedules": {"ent_coef": [[0, -1]]}}, "factors of at least 0"),
        ({"optimizer.schedule": "piecewise"}, r"schedule_points must be a list of .*, got \[\]"),
        ({"optimizer.schedule_points": [[0, 1]]}, "schedule_points needs trainer.optimizer.schedule=piecewise, got linear"),
        ({"coef_schedules": {"ent_coef": "step"}}, "coef_schedules"),
    ],
)
def test_a_schedule_that_cannot_be_followed_is_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message) as raised:
        planned(changes)
    assert "\n" not in str(raised.value)


def test_schedules_are_given_on_the_command_line() -> None:
    given = ["trainer.coef_schedules.ent_coef=linear", "trainer.coef_schedules.vf_coef=[[0, 1], [0.5, 0.1]]"]
    settings = resolve_run("cartpole", given, preset=None, config=None, flags={}).settings
    assert settings.trainer.coef_schedules == {"ent_coef": "linear", "vf_coef": ((0, 1), (0.5, 0.1))}
