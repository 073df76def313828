"""A run's settings as a whole: the file they are kept in, the batch that fits the budget, what does not fit together."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import settings as profile
from hypothesis import strategies as st

from oatmill.errors import SettingsError
from oatmill.settings import yaml_format
from recipes import cartpole, cogs_v_clips, lunar_lander
from recipes.resolve import resolve_run
from runner.overrides import Layer, command_layers, leaves, nested, resolve
from runner.settings import RunSettings, prepared, read_config, write_config


@pytest.mark.parametrize("module", [cartpole, cogs_v_clips, lunar_lander])
def test_config_yaml_gives_back_exactly_what_was_written(module: object, tmp_path: Path) -> None:
    settings: RunSettings = module.settings()  # type: ignore[attr-defined]
    settings.trainer.optimizer.eps = 1e-5
    write_config(settings, tmp_path / "config.yaml")
    assert read_config(tmp_path / "config.yaml") == settings
    # The roles read the same file with plain YAML.
    assert RunSettings.model_validate(yaml.safe_load((tmp_path / "config.yaml").read_text())) == settings
    assert list(yaml.safe_load((tmp_path / "config.yaml").read_text())) == [
        "env",
        "agent",
        "actors",
        "replay",
        "trainer",
        "metrics",
        "evaluator",
    ]


PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()


@profile(deadline=None)
@example({"\x85": None})  # a line break to YAML
@given(st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8))
def test_every_plain_value_survives_yaml(value: object) -> None:
    assert yaml_format.load(yaml_format.dump({"value": value})) == {"value": value}


def test_text_that_looks_like_a_number_stays_text_for_every_reader_of_yaml() -> None:
    values = {"a": "1e6", "b": "nan", "c": "1.5", "d": "true"}
    assert yaml_format.load(yaml_format.dump(values)) == values
    assert yaml.safe_load(yaml_format.dump(values)) == values


def test_a_config_that_is_no_runs_is_refused_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("env: {kind: cogs, num_cogs: 99}")
    with pytest.raises(SettingsError, match=rf"^{path}: env.num_cogs must be a whole number from 1 to 24, got 99$"):
        read_config(path)


def test_a_budget_of_ten_thousand_steps_makes_at_least_five_learner_steps() -> None:
    settings = cogs_v_clips.settings()
    settings.trainer.total_timesteps = 10_000
    settings.trainer.minibatches, settings.trainer.shuffle = 4, "trajectories"
    fitted, notes = prepared(settings)
    # 10,000 / (20 batches x 64 steps) = 7 trajectories; the largest multiple of 4 minibatches in it is 4: 256 steps.
    assert fitted.trainer.batch_size == 4
    assert 10_000 / (4 * 64) > 5
    assert len(notes) == 1
    assert "trainer.batch_size is 4 instead of 64" in notes[0]


def test_a_batch_is_rounded_to_whole_minibatches_on_every_rank_and_says_so() -> None:
    settings = cogs_v_clips.settings()
    settings.trainer.minibatches, settings.trainer.learners = 4, 3
    settings.trainer.shuffle = "trajectories"
    fitted, notes = prepared(settings)
    assert fitted.trainer.batch_size == 60  # the largest multiple of 12 that is not above 64
    assert "a multiple of trainer.minibatches x trainer.learners = 12" in notes[0]


@pytest.mark.parametrize(
    ("size", "shuffle", "refusal"),
    [
        (50, "trajectories", "a multiple of trainer.minibatches x trainer.learners = 12, got 50; the nearest are 48 and 60"),
        (5, "trajectories", "a multiple of trainer.minibatches x trainer.learners = 12, got 5; the nearest is 12"),
        (50, "steps", "a multiple of trainer.learners = 3, got 50; the nearest are 48 and 51"),
    ],
)
def test_a_batch_size_that_the_user_has_set_and_that_cannot_be_split_is_refused(size: int, shuffle: str, refusal: str) -> None:
    trainer = {"trainer.batch_size": size, "trainer.minibatches": 4, "trainer.learners": 3, "trainer.shuffle": shuffle}
    typed = resolve(cartpole.settings().explicit(), [Layer(nested(trainer.items()))])
    assigned = cartpole.settings()
    for path, value in trainer.items():
        setattr(assigned.trainer, path.partition(".")[2], value)
    for settings in (typed, assigned, typed.copied()):
        with pytest.raises(SettingsError) as refused:
            prepared(settings)
        assert str(refused.value) == f"trainer.batch_size must be {refusal}"


def test_a_batch_size_that_the_user_has_set_is_not_cut_for_a_small_budget() -> None:
    changes = {"trainer.batch_size": 32, "trainer.total_timesteps": 2048}
    settings = resolve(cartpole.settings().explicit(), [Layer(nested(changes.items()))])
    fitted, notes = prepared(settings)
    assert (fitted.trainer.batch_size, notes) == (32, [])
    assert prepared(fitted)[0].trainer.batch_size == 32


def test_a_presets_batch_size_is_a_default() -> None:
    layers = command_layers(
        preset={"trainer": {"batch_size": 96}}, config=None, environ={}, assignments=["trainer.total_timesteps=10000"], flags={}
    )
    assert prepared(resolve(cartpole.settings().explicit(), layers))[0].trainer.batch_size == 4


def test_a_batch_that_fits_is_left_alone() -> None:
    settings = cogs_v_clips.settings()
    fitted, notes = prepared(settings)
    assert fitted.trainer.batch_size == settings.trainer.batch_size
    assert notes == []


def test_fitting_twice_changes_nothing_more() -> None:
    settings = cogs_v_clips.settings()
    settings.trainer.total_timesteps = 10_000
    once, _ = prepared(settings)
    assert prepared(once) == (once, [])


@pytest.mark.parametrize(("minibatches", "fits"), [(2048, True), (2049, False)])
def test_every_minibatch_of_single_steps_must_have_a_step(minibatches: int, *, fits: bool) -> None:
    changes = {"trainer.batch_size": 32, "trainer.minibatches": minibatches}
    settings = resolve(lunar_lander.settings().explicit(), [Layer(nested(changes.items()))])
    if fits:
        assert prepared(settings)[0].trainer.minibatches == minibatches
        return
    with pytest.raises(SettingsError, match=r"minibatches must be at most .* = 2048, got 2049; .*batch_size to 33 or more$"):
        prepared(settings)


def test_settings_that_were_assigned_one_by_one_are_checked_as_a_whole() -> None:
    settings = cartpole.settings()
    settings.agent.core = "lstm"
    settings.agent.burn_in = 64
    with pytest.raises(SettingsError, match=r"agent.burn_in must be below actors.unroll_length=64.*got 64"):
        prepared(settings)


def test_the_discount_is_the_same_under_both_names_in_what_a_run_starts_with() -> None:
    settings = RunSettings.of(
        {"env": {"kind": "cogs"}, "trainer": {"losses": {"ppo_critic": {"gamma": 0.9}}}},
    )
    fitted, _ = prepared(settings)
    assert fitted.trainer.gamma == 0.9
    assert RunSettings.of(fitted.to_dict()).trainer.discount == 0.9


def test_training_again_on_what_a_learner_forgot_needs_the_log_on_disk() -> None:
    values = {"env": {"kind": "gymnasium", "id": "CartPole-v1"}, "replay": {"on_learner_restart": "replay"}}
    with pytest.raises(
        SettingsError, match=r"replay.on_learner_restart=replay needs replay.acknowledge=durable: .* got .*=memory"
    ):
        RunSettings.of(values)
    values["replay"]["acknowledge"] = "durable"
    assert RunSettings.of(values).replay.acknowledge == "durable"


@pytest.mark.parametrize(("old", "new"), [("none", "float32"), ("bfloat16", "bfloat16")])
def test_the_config_of_an_older_run_has_autocast_in_the_place_of_precision(tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"env: {{kind: gymnasium, id: CartPole-v1}}\ntrainer: {{autocast: {old}, threads: 1}}\n")
    assert read_config(path).trainer.precision == new


def test_the_config_of_an_older_run_may_have_earlier_names(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "env: {kind: gymnasium, id: CartPole-v1}\nagent: {normalise_observations: true}\ntrainer: {normalise_rewards: true}\n"
    )
    settings = read_config(path)
    assert (settings.agent.normalize_observations, settings.trainer.normalize_returns) == (True, True)
    assert not set(dict(leaves(settings.to_dict()))) & {"agent.normalise_observations", "trainer.normalise_rewards"}


@pytest.mark.parametrize("value", [0, "many", True, 1.5])
def test_threads_are_a_number_or_auto(value: object) -> None:
    settings = cartpole.settings()
    settings.trainer.threads = 3
    settings.trainer.threads = "auto"
    with pytest.raises(SettingsError, match=r"^trainer\.threads must be a whole number of at least 1 or auto, got "):
        settings.trainer.threads = value  # type: ignore[assignment]


def test_a_run_that_goes_on_keeps_its_batch_size(tmp_path: Path) -> None:
    settings = cartpole.settings()
    settings.trainer.batch_size, settings.trainer.total_timesteps = 32, 2048
    write_config(prepared(settings)[0], tmp_path / "config.yaml")
    run = resolve_run(None, (), preset=None, config=None, flags={}, resumed=tmp_path)
    assert prepared(run.settings)[0].trainer.batch_size == 32
