"""Settings of the replay buffer that could never fill its share are refused before anything starts, with the reason."""

from __future__ import annotations

from typing import Any

import pytest

from oatmill.errors import SettingsError
from recipes import cartpole
from recipes.presets import PRESETS
from runner.overrides import Layer, resolve
from runner.plan_report import report_plan
from runner.settings import RunSettings

PROXIMAL = {"losses": {"ppo_actor": {"anchor": "proximal"}}}


def settings_of(replay: dict[str, Any], trainer: dict[str, Any] | None = None, **roots: Any) -> RunSettings:
    layer = {"replay": replay, "trainer": PROXIMAL | (trainer or {})} | roots
    return resolve(cartpole.settings().explicit(), [Layer(layer)])


@pytest.mark.parametrize(
    ("replay", "trainer", "roots", "message"),
    [
        (
            {"fraction": 0.5},
            {"losses": {}},
            {},
            r"replay\.fraction=0\.5 needs trainer\.losses\.ppo_actor\.anchor=proximal: .*; set the anchor, or",
        ),
        (
            {"fraction": 0.2},
            {"batch_size": 4},
            {},
            r"of a rank's 4 trajectories is less than one, .* trainer\.batch_size to 5 or",
        ),
        # 2 ranks of 16: 15 of each are sampled, so 30 in all.
        ({"fraction": 0.95, "buffer_size": 29}, {"learners": 2}, {}, r"replay\.buffer_size must be at least 30, .* got 29"),
        # 24 of 32 are sampled and 8 come new: each is sampled 3 times.
        (
            {"fraction": 0.75, "max_times_sampled": 2},
            {},
            {},
            r"max_times_sampled must be at least 3, got 2: each batch adds 8 ",
        ),
        (
            {"fraction": 0.9, "buffer_bytes": 2**20},
            {"total_timesteps": 10**8},
            {"actors": {"unroll_length": 2000}},
            r"replay\.buffer_bytes must be at least \d+, got 1048576: a trajectory takes up to \d+ bytes, and one batch",
        ),
    ],
)
def test_what_can_never_fill_a_batch_is_refused(
    replay: dict[str, Any], trainer: dict[str, Any], roots: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        report_plan(settings_of(replay, trainer, **roots))


@pytest.mark.parametrize(
    ("replay", "trainer"),
    [
        ({"fraction": 0.75, "max_times_sampled": 3, "buffer_size": 24}, {}),
        ({"fraction": 0.2}, {"batch_size": 8}),
        ({"fraction": 0.0}, {"losses": {}}),
        ({"fraction": 0.5}, {"losses": {"ppo_actor": {"enabled": False}}}),
    ],
)
def test_what_just_fills_it_is_taken(replay: dict[str, Any], trainer: dict[str, Any]) -> None:
    report_plan(settings_of(replay, trainer))


def test_the_plan_says_how_often_a_trajectory_is_trained_on() -> None:
    # 24 of 32 are sampled: 8 fresh ones of 64 steps a learner step, each of which is in 4 batches.
    text = report_plan(settings_of({"fraction": 0.75})).to_text()
    assert "replay        24 of them from a buffer of up to 2048, once it holds that many; each is trained on 4 times" in text
    assert "  sampling      uniform; 4 samples per insert, including the first, fresh one\n" in text
    assert "300,000 env steps = 586 learner steps" in text
    assert "replay   " not in report_plan(cartpole.settings()).to_text().partition("order")[0]


def test_the_plan_says_how_trajectories_are_sampled() -> None:
    text = report_plan(settings_of({"fraction": 0.5, "sampling": "prioritised", "priority_exponent": 0.5})).to_text()
    assert (
        "  sampling      prioritised, in proportion to |value target - V| ^ 0.5, corrected by importance weights ^ 0.4; 2 "
        in text
    )


def test_sampling_by_priority_needs_something_to_sample_and_value_targets() -> None:
    with pytest.raises(
        SettingsError, match=r"with replay\.fraction=0, because nothing is sampled .*; set replay\.fraction above 0"
    ):
        report_plan(settings_of({"sampling": "prioritised"}))
    model_alone = {
        "ppo_actor": {"enabled": False},
        "ppo_critic": {"enabled": False},
        "muesli_model": {"enabled": True, "policy_target": "prior"},
    }
    settings = settings_of({"fraction": 0.5, "sampling": "prioritised"}, {"losses": model_alone})
    with pytest.raises(SettingsError, match=r"no enabled loss has value targets; enable trainer\.losses\.ppo_critic, or"):
        report_plan(settings)
    settings.replay.sampling = "uniform"
    report_plan(settings)


@pytest.mark.parametrize("name", ["priority_exponent", "importance_exponent"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_exponents_are_between_0_and_1(name: str, value: float) -> None:
    with pytest.raises(SettingsError, match=rf"replay\.{name} must be"):
        settings_of({"fraction": 0.5, name: value})


def test_the_papers_preset_is_the_papers() -> None:
    report = report_plan(resolve(cartpole.settings().explicit(), [Layer(dict(PRESETS["paper"]))]))
    assert report.plan.losses == ["ppo_critic", "cmpo", "muesli_pg", "dynamics", "muesli_model"]
    trainer = report.settings.trainer
    assert (trainer.returns, trainer.discount, trainer.batch_size) == ("retrace", 0.995, 96)
    assert (report.settings.replay.fraction, report.settings.actors.unroll_length) == (0.75, 30)
    assert (trainer.epochs, trainer.minibatches, trainer.optimizer.learning_rate) == (1, 1, 3e-4)
    assert report.settings.agent.value_head == "categorical"
    losses = trainer.losses
    assert (losses.cmpo.kl_coef, losses.muesli_model.policy_pred_coef, losses.muesli_model.policy_horizon) == (1, 1, 5)
    assert (losses.dynamics.returns_pred_coef, losses.dynamics.reward_pred_coef, losses.ppo_critic.vf_coef) == (0.25, 1, 0.25)
