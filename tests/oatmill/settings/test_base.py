"""Settings: bounds are checked at every assignment, with one-line messages."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import Field

from actors.settings import CogsEnv, EnvSettings
from agent.settings import AgentSettings
from learner.settings import CmpoSettings, TrainerSettings
from oatmill.errors import SettingsError, UserError
from oatmill.settings.base import Settings
from oatmill.settings.complaints import nearest
from recipes import cartpole


class Roots(Settings):
    env: EnvSettings
    agent: AgentSettings = Field(default_factory=AgentSettings)
    trainer: TrainerSettings = Field(default_factory=TrainerSettings)


@pytest.fixture
def roots() -> Roots:
    return Roots(env=CogsEnv())


def assign(settings: Settings, path: str, value: Any) -> None:
    *parents, name = path.split(".")
    for parent in parents:
        settings = getattr(settings, parent)
    setattr(settings, name, value)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "trainer.losses.cmpo.advantage_clip",
            math.nan,
            "trainer.losses.cmpo.advantage_clip must be a finite number above 0, got nan",
        ),
        ("trainer.losses.cmpo.kl_coef", -1, "trainer.losses.cmpo.kl_coef must be a finite number of at least 0, got -1"),
        (
            "trainer.losses.cmpo.prior_ema_rate",
            2.0,
            "trainer.losses.cmpo.prior_ema_rate must be a finite number above 0 and at most 1, got 2.0",
        ),
        (
            "trainer.losses.dynamics.unroll_steps",
            21,
            "trainer.losses.dynamics.unroll_steps must be a whole number from 1 to 20, got 21",
        ),
        ("trainer.batch_size", True, "trainer.batch_size must be a whole number of at least 1, got true"),
        ("trainer.batch_size", 1.5, "trainer.batch_size must be a whole number of at least 1, got 1.5"),
        ("trainer.reward_clip", "wide", "trainer.reward_clip must be a finite number above 0, or null, got 'wide'"),
        ("trainer.losses.cmpo.enabled", "maybe", "trainer.losses.cmpo.enabled must be true or false, got 'maybe'"),
        ("trainer.losses.cmpo.advantage", "x", "trainer.losses.cmpo.advantage must be one of auto, model, sampled, got 'x'"),
        ("trainer.epoch", 3, "trainer.epoch is not a setting; the nearest is trainer.epochs"),
        (
            "trainer.losses",
            True,
            "trainer.losses is a group of settings, such as trainer.losses.ppo_critic.enabled, and takes no value itself, "
            "got true",
        ),
        ("agent.hidden_sizes", [], "agent.hidden_sizes must be a list of at least 1 values, such as [128, 128], got []"),
        ("agent.hidden_sizes", ["wide"], "agent.hidden_sizes[0] must be a whole number of at least 1, got 'wide'"),
        ("agent.num_bins", 600, "agent.num_bins must be odd, so that 0 is a bin, got 600"),
        ("env.num_cogs", 99, "env.num_cogs must be a whole number from 1 to 24, got 99"),
        ("env.mission", "hard", "env.mission must be one of easy_hearts_small, easy_hearts, got 'hard'"),
        (
            "env",
            {"kind": "doom"},
            "env.kind must be one of gymnasium, cogs, minigrid, atari, minatar, dmc, envpool, pettingzoo, factory, got 'doom'",
        ),
        (
            "env",
            {},
            "env.kind must be one of gymnasium, cogs, minigrid, atari, minatar, dmc, envpool, pettingzoo, factory, got nothing",
        ),
        ("env", {"kind": "gymnasium"}, "env.id must be set; it has no default"),
        ("env", {"kind": "factory", "factory": "mine"}, "env.factory must be text of the form module:function, got 'mine'"),
        ("env", {"kind": "cogs", "mision": "easy_hearts"}, "env.mision is not a setting; the nearest is env.mission"),
    ],
)
def test_a_rejected_assignment_names_setting_requirement_and_value_in_one_line(
    roots: Roots, path: str, value: Any, message: str
) -> None:
    before = roots.model_dump()
    with pytest.raises(SettingsError) as refusal:
        assign(roots, path, value)
    assert str(refusal.value) == message
    assert isinstance(refusal.value, ValueError)
    assert isinstance(refusal.value, UserError)
    assert roots.model_dump() == before


def test_an_assignment_rejected_by_a_check_of_several_fields_keeps_the_old_value(roots: Roots) -> None:
    roots.agent.core = "lstm"
    roots.agent.burn_in = 8
    with pytest.raises(SettingsError, match=r"agent\.burn_in=8 needs a recurrent core"):
        roots.agent.core = "none"
    assert roots.agent.core == "lstm"


def test_an_assigned_group_knows_its_path(roots: Roots) -> None:
    roots.trainer.losses.cmpo = CmpoSettings(kl_coef=0.5)
    with pytest.raises(SettingsError, match=r"^trainer\.losses\.cmpo\.kl_coef must be"):
        roots.trainer.losses.cmpo.kl_coef = -1


def test_nothing_can_be_assigned_once_the_run_has_started(roots: Roots) -> None:
    roots.freeze()
    with pytest.raises(SettingsError, match=r"^trainer\.losses\.cmpo\.enabled cannot be changed any more"):
        roots.trainer.losses.cmpo.enabled = True
    assert roots.trainer.losses.cmpo.enabled is False


def test_numbers_may_be_text_but_not_booleans(roots: Roots) -> None:
    assign(roots, "trainer.batch_size", "32")
    assert roots.trainer.batch_size == 32
    with pytest.raises(SettingsError, match="got false"):
        assign(roots, "trainer.gamma", False)


def test_a_long_value_is_cut_in_the_message(roots: Roots) -> None:
    with pytest.raises(SettingsError) as refusal:
        assign(roots, "trainer.device", "x" * 500)
    assert len(str(refusal.value)) < 150


def test_the_nearest_name_has_the_same_root() -> None:
    # By its last word alone, `fraction` is nearer to `activation`.
    assert (
        nearest("replay.fraction", ["agent.activation", "replay.acknowledge", "replay.queue_batches"]) == "replay.acknowledge"
    )


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("kl_coef", "trainer.losses.cmpo.kl_coef"),
        ("cmpo.enabled", "trainer.losses.cmpo.enabled"),
        ("trainer.learning_rate", "trainer.optimizer.learning_rate"),
        ("trainer.losses.ppo_acter.enabled", "trainer.losses.ppo_actor.enabled"),
    ],
)
def test_the_nearest_name_has_a_similar_end(typed: str, meant: str) -> None:
    known = [
        "trainer.optimizer.learning_rate",
        "trainer.losses.cmpo.kl_coef",
        "trainer.losses.cmpo.enabled",
        "trainer.losses.ppo_actor.enabled",
        "trainer.losses.dynamics.enabled",
        "metrics.report_every",
    ]
    assert nearest(typed, known) == meant


def test_a_setting_of_another_kind_that_is_assigned_names_the_kinds_that_have_it() -> None:
    settings = cartpole.settings()
    with pytest.raises(
        SettingsError, match=r"^env\.game is a setting of env\.kind=atari, minatar, and env\.kind is gymnasium here"
    ):
        settings.env.game = "pong"
