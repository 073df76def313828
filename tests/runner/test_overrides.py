"""Overrides: what is typed, in which order it counts, and what is said of a wrong one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from oatmill.errors import SettingsError
from recipes import cartpole, cogs_v_clips
from recipes.presets import PRESETS
from runner.overrides import Layer, command_layers, nested, parse_assignment, resolve
from runner.settings import RunSettings

COGS = cogs_v_clips.settings().explicit()


def typed(*assignments: str, base: Mapping[str, Any] = COGS) -> RunSettings:
    return resolve(base, command_layers(preset={}, config=None, environ={}, assignments=assignments, flags={}))


def test_the_guides_overrides_are_taken_as_they_are_typed() -> None:
    settings = typed(
        "trainer.losses.cmpo.enabled=true",
        "trainer.losses.cmpo.kl_coef=0.01",
        "trainer.losses.muesli_model.enabled=true",
        "trainer.losses.muesli_model.policy_pred_coef=0.001",
        "trainer.total_timesteps=10000",
    )
    assert settings.trainer.losses.cmpo.enabled is True
    assert settings.trainer.losses.cmpo.kl_coef == 0.01
    assert settings.trainer.losses.muesli_model.enabled is True
    assert settings.trainer.total_timesteps == 10_000


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=1e6", 1e6),  # YAML 1.1 would take it for text
        ("a=3e-4", 3e-4),
        ("a=.5e1", 5.0),
        ("a=[64, 64]", [64, 64]),
        ("a=null", None),
        ("a=", None),
        ("a=x=y", "x=y"),
        ("a=CartPole-v1", "CartPole-v1"),
        ("a={b: 1}", {"b": 1}),
    ],
)
def test_values_are_yaml(text: str, value: Any) -> None:
    assert parse_assignment(text) == ("a", value)


@pytest.mark.parametrize(
    ("typed_text", "text"),
    [
        ("::", "::"),  # YAML: {":": null}
        ("::1", "::1"),
        ("[::1]", "[::1]"),  # a list
        ("10:20", "10:20"),  # 620, a number of base 60
        ("*", "*"),  # a reference to nothing
        ("1", "1"),
        ("on", "on"),  # true
        ("1e6", "1e6"),
        ("2026-11-29", "2026-11-29"),  # a date
        ("'quoted'", "quoted"),
        ("{a: 1}", "{a: 1}"),
        ("127.0.0.1", "127.0.0.1"),
    ],
)
def test_a_setting_that_takes_text_takes_what_was_typed(typed_text: str, text: str) -> None:
    assert parse_assignment(f"metrics.host={typed_text}") == ("metrics.host", text)
    assert parse_assignment(f"env.id={typed_text}")[1] == text  # of some kinds of environment
    assert parse_assignment(f"replay.log_dir={typed_text}")[1] == text  # text or null
    layers = command_layers(preset={}, config=None, environ={"OATMILL__METRICS__HOST": typed_text}, assignments=[], flags={})
    assert resolve(COGS, layers).metrics.host == text


def test_null_is_no_text_and_other_settings_are_still_yaml() -> None:
    assert parse_assignment("replay.log_dir=null")[1] is None
    with pytest.raises(SettingsError, match=r"^metrics.host must be text, got null$"):
        typed("metrics.host=null")
    with pytest.raises(SettingsError, match=r"^metrics.port must be a whole number from 0 to 65535, got '::'$"):
        typed("metrics.port='::'")
    with pytest.raises(SettingsError, match=r"^metrics.hosts is not a setting; the nearest is metrics.host$"):
        typed("metrics.hosts=x")


def test_a_count_may_be_written_with_an_exponent() -> None:
    assert typed("trainer.total_timesteps=1e6").trainer.total_timesteps == 1_000_000


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        (
            "trainer.losses.cmpo.kl_coeff=1",
            "trainer.losses.cmpo.kl_coeff is not a setting; the nearest is trainer.losses.cmpo.kl_coef",
        ),
        ("losses.cmpo.enabled=true", "losses.cmpo.enabled is not a setting; the nearest is trainer.losses.cmpo.enabled"),
        (
            "env.id=CartPole-v1",
            "env.id is a setting of env.kind=gymnasium, minigrid, envpool, and env.kind is cogs here; set env.kind, too, or "
            "leave it out (`oatmill settings env` lists the settings of each kind)",
        ),
        (
            "env.frame_skip=2",
            "env.frame_skip is a setting of env.kind=atari, and env.kind is cogs here; env.frame_skip is for env.kind=atari; "
            "for others, add repeat_action (or max_and_skip for images) to env.wrappers",
        ),
        (
            "trainer.data_timeout=10s",
            "trainer.data_timeout must be a finite number above 0, got '10s'; write the number alone, without a unit "
            "(data_timeout: Seconds that the learner waits for a batch before the run ends with an error)",
        ),
        (
            "actors.memory_bytes=1GB",
            "actors.memory_bytes must be a whole number of at least 268435456, or null, got '1GB'; write the number alone, "
            "without a unit (memory_bytes: Memory that an actor may use, in bytes)",
        ),
        ("trainer.batch_size.x=1", "trainer.batch_size.x is not a setting; the nearest is trainer.batch_size"),
        (
            "trainer.losses.cmpo=true",
            "trainer.losses.cmpo is a group of settings, such as trainer.losses.cmpo.enabled, and takes no value itself, "
            "got true",
        ),
        (
            "trainer.losses.cmpo.advantage_clip=nan",
            "trainer.losses.cmpo.advantage_clip must be a finite number above 0, got nan",
        ),
        (
            "trainer.total_timesteps",
            "expected key=value without spaces around the =, such as trainer.total_timesteps=10000, "
            "got 'trainer.total_timesteps'",
        ),
        ("=3", "expected key=value without spaces around the =, such as trainer.total_timesteps=10000, got '=3'"),
    ],
)
def test_a_wrong_assignment_is_told_in_one_line(assignment: str, message: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        typed(assignment)
    assert str(refusal.value) == message


def test_a_value_that_is_no_yaml_is_told_in_one_line() -> None:
    with pytest.raises(
        SettingsError, match=r"^agent.hidden_sizes must be a YAML value.*got '\[1, 2': while parsing"
    ) as refusal:
        typed("agent.hidden_sizes=[1, 2")
    assert "\n" not in str(refusal.value)


def test_assignments_that_only_fit_together_are_taken_in_any_order() -> None:
    # burn_in needs a core; each alone would be refused in one of the two orders.
    for order in (("agent.burn_in=8", "agent.core=gru"), ("agent.core=gru", "agent.burn_in=8")):
        assert typed(*order).agent.burn_in == 8


def test_the_last_of_two_assignments_to_one_setting_counts() -> None:
    assert typed("trainer.epochs=2", "trainer.epochs=3").trainer.epochs == 3


def test_a_group_may_be_given_as_one_yaml_mapping() -> None:
    cmpo = typed("trainer.losses.cmpo={enabled: true, kl_coef: 0.5}").trainer.losses.cmpo
    assert (cmpo.enabled, cmpo.kl_coef, cmpo.advantage_clip) == (True, 0.5, 1.0)


def test_each_layer_beats_the_ones_before_it(tmp_path: Path) -> None:
    config = tmp_path / "more.yaml"
    config.write_text("trainer: {epochs: 30, minibatches: 30, batch_size: 30, seed: 30, checkpoint_every: 30}")
    layers = command_layers(
        preset={
            "trainer": {"epochs": 20, "minibatches": 20, "batch_size": 20, "seed": 20, "checkpoint_every": 20, "threads": 20}
        },
        config=config,
        environ={"OATMILL__TRAINER__MINIBATCHES": "40", "OATMILL__TRAINER__BATCH_SIZE": "40", "OATMILL__TRAINER__SEED": "40"},
        assignments=["trainer.batch_size=50", "trainer.seed=50"],
        flags={"trainer.seed": 60, "actors.count": None},
    )
    base = {"env": {"kind": "cogs"}, "actors": {"count": 10}, "trainer": {"threads": 10, "keep_checkpoints": 10}}
    settings = resolve(base, layers)
    trainer = settings.trainer
    assert (trainer.keep_checkpoints, settings.actors.count) == (10, 10)  # the recipe's
    assert trainer.threads == 20  # the preset's
    assert (trainer.epochs, trainer.checkpoint_every) == (30, 30)  # the file's
    assert trainer.minibatches == 40  # the environment's
    assert trainer.batch_size == 50  # typed
    assert trainer.seed == 60  # a flag's


def test_a_wrong_setting_names_the_file_or_variable_it_comes_from(tmp_path: Path) -> None:
    config = tmp_path / "more.yaml"
    config.write_text("trainer: {gama: 0.9}")
    layers = command_layers(preset={}, config=config, environ={}, assignments=[], flags={})
    with pytest.raises(SettingsError, match=rf"^{config}: trainer.gama is not a setting; the nearest is trainer.gamma$"):
        resolve(COGS, layers)
    layers = command_layers(preset={}, config=None, environ={"OATMILL__TRAINER__GAMMA": "2"}, assignments=[], flags={})
    with pytest.raises(
        SettingsError, match=r"^OATMILL__TRAINER__GAMMA: trainer.gamma must be a finite number from 0 to 1, got 2$"
    ):
        resolve(COGS, layers)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "a: [",
            "is not YAML: while parsing a flow node expected the node content, but found '<stream end>' in line 1, column 5",
        ),
        ("- 1\n- 2", "must contain settings by name, such as trainer: {gamma: 0.99}, got list"),
        (None, "cannot be read: No such file or directory; expected a YAML file of settings"),
    ],
)
def test_a_file_that_holds_no_settings_is_told_in_one_line(content: str | None, message: str, tmp_path: Path) -> None:
    config = tmp_path / "more.yaml"
    if content is not None:
        config.write_text(content)
    with pytest.raises(SettingsError) as refusal:
        command_layers(preset={}, config=config, environ={}, assignments=[], flags={})
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_another_kind_of_environment_starts_anew() -> None:
    settings = typed("env.kind=gymnasium", "env.id=Acrobot-v1")
    defaults = {"kwargs": {}, "vectorization": "auto", "channels": "auto", "wrappers": [], "info_metrics": []}
    assert settings.env.model_dump() == {"kind": "gymnasium", "id": "Acrobot-v1", **defaults}


def test_what_an_environment_is_built_with_is_the_users_own() -> None:
    env = typed("env.kwargs.gravity=-5", base=cartpole.settings().explicit()).env
    assert env.model_dump()["kwargs"] == {"gravity": -5}


def test_the_discount_counts_under_whichever_of_its_names_comes_later() -> None:
    assert typed("trainer.losses.ppo_critic.gamma=0.9").trainer.discount == 0.9
    both = resolve(COGS, [Layer(nested([("trainer.losses.ppo_critic.gamma", 0.9)])), Layer(nested([("trainer.gamma", 0.8)]))])
    assert both.trainer.discount == 0.8


def test_the_discount_under_two_names_at_once_is_refused() -> None:
    with pytest.raises(
        SettingsError, match=r"trainer.gamma=0.8 and trainer.losses.ppo_critic.gamma=0.9 name the same discount"
    ):
        typed("trainer.losses.ppo_critic.gamma=0.9", "trainer.gamma=0.8")


def test_presets_turn_on_what_the_guide_says() -> None:
    # losses.md: conservative is cmpo 0.01, muesli 0.001 at horizon 1, dynamics unroll 3 with both coefficients 1;
    # aggressive is muesli 0.005 at horizon 5, cmpo 0.05, unroll 5.
    wanted = {"conservative": (0.01, 0.001, 1, 3), "aggressive": (0.05, 0.005, 5, 5)}
    for name, (kl_coef, policy_pred_coef, horizon, unroll_steps) in wanted.items():
        losses = resolve(COGS, [Layer(dict(PRESETS[name]))]).trainer.losses
        assert (losses.cmpo.enabled, losses.cmpo.kl_coef) == (True, kl_coef)
        assert (losses.muesli_model.enabled, losses.muesli_model.policy_pred_coef) == (True, policy_pred_coef)
        assert losses.muesli_model.policy_horizon == horizon
        assert (losses.dynamics.enabled, losses.dynamics.unroll_steps) == (True, unroll_steps)
        assert (losses.dynamics.returns_pred_coef, losses.dynamics.reward_pred_coef) == (1.0, 1.0)
