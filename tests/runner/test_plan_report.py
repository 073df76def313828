"""The plan of a run: found out without starting it, and told to people and programs."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete

from actors.environments.spaces.actions import convert_action_space
from actors.settings import FactoryEnv
from learner.device import multiplies_bfloat16
from oatmill.errors import UserError
from recipes import cartpole, cogs_v_clips, tic_tac_toe
from recipes.presets import PRESETS
from runner.observer import in_words
from runner.overrides import Layer, resolve
from runner.plan_report import action_text, report_plan
from runner.settings import RunSettings

ORDER = ["ppo_critic", "cmpo", "ppo_actor", "dynamics", "muesli_model"]


def conservative() -> RunSettings:
    return resolve(cartpole.settings().explicit(), [Layer(dict(PRESETS["conservative"]))])


def test_a_plan_has_the_order_what_is_read_and_written_and_every_auto() -> None:
    plan = json.loads(json.dumps(report_plan(conservative()).to_dict()))
    assert {"order", "reads", "writes", "settings", "auto"} <= plan.keys()
    assert [name for name in plan["order"] if name in ORDER] == ORDER
    assert plan["reads"].keys() == plan["writes"].keys() == set(plan["order"])
    assert plan["auto"] == {
        "trainer.losses.cmpo.advantage": "model",
        "trainer.losses.cmpo.estimator": "exact",
        "trainer.losses.muesli_model.policy_target": "cmpo",
        "agent.encoder": "mlp",
        "trainer.device": "cpu",
        "trainer.precision": "float32",
        "trainer.threads": "1",
        "env.vectorization": "vector_entry_point",
    }
    assert RunSettings.of(plan["settings"]) == report_plan(conservative()).settings


def test_a_plan_in_words_shows_the_batch_the_order_and_the_notes() -> None:
    settings = conservative()
    settings.trainer.total_timesteps = 10_000
    text = report_plan(settings).to_text()
    # 4 trajectories of 64 steps are 256 env steps; 10,000 / 256 = 39.06, so the 40th learner step ends the run.
    assert "4 trajectories x 64 steps = 256 env steps" in text
    # 4 epochs of 4 minibatches each.
    assert "10,000 env steps = 40 learner steps = 640 updates\n" in text
    places = [text.index(f"  {name} (loss)") for name in ORDER]
    assert places == sorted(places)
    assert "trainer.batch_size is 4 instead of 32" in text
    assert "4 minibatches of whole trajectories on 1 rank\n" in text
    assert "policy lag    1 version: " in text
    assert "trainer.losses.cmpo.advantage = model" in text


def test_a_plan_with_much_data_and_few_updates_says_so() -> None:
    settings = cartpole.settings()
    trainer = settings.trainer
    trainer.batch_size, trainer.epochs, trainer.minibatches, trainer.total_timesteps = 32, 1, 1, 1_000_000
    # 32 x 64 = 2,048 env steps make an update: 488.3 of them.
    (note,) = [note for note in report_plan(settings).notes if note.startswith("few updates: ")]
    assert "489 updates for 1,000,000 env steps" in note
    for path, value in (("minibatches", 4), ("total_timesteps", 3_000_000)):  # shorter data for each update; enough updates
        changed = resolve(settings.explicit(), [Layer({"trainer": {path: value}})])
        assert not any("few updates" in note for note in report_plan(changed).notes)


def test_a_plan_says_that_most_actors_would_be_idle() -> None:
    settings = cartpole.settings()
    settings.trainer.batch_size, settings.actors.envs_per_actor, settings.actors.count = 32, 16, 10
    # Twice the 32 trajectories of a batch and one block of 16, minus one, are 79; ten actors collect 160.
    (note,) = [note for note in report_plan(settings).notes if note.startswith("idle actors: ")]
    assert "at most 4 of 10 actors can collect at a time: 79 trajectories" in note
    # 160 + 31 that wait for a whole batch are 176 and one block, minus one: 2.8 batches of 32 twice.
    assert "set replay.queue_batches=2.8 (older data), or raise trainer.batch_size" in note
    for path, value in (("actors", {"count": 9}), ("replay", {"queue_batches": 2.0})):
        changed = resolve(settings.explicit(), [Layer({path: value})])
        assert not any("idle actors" in note for note in report_plan(changed).notes)
    settings.actors.synchronous = True
    (note,) = [note for note in report_plan(settings).notes if note.startswith("idle actors: ")]
    assert "at most 2 of 10 actors" in note, "their credit does not grow while the learner waits"
    assert "queue_batches" not in note


def test_a_plan_says_what_it_costs_when_it_is_asked() -> None:
    report = report_plan(conservative())
    assert "GFLOP" not in report.to_text(), "a run that starts does not spend a second on this"
    text = report.to_text(cost=True)
    assert "21,831 trained parameters" in text
    assert "  ppo_actor     trains 4,610; policy x 1, entropy x -0.01" in text
    assert "  prior             0.019    1%" in text
    cost = json.loads(json.dumps(report.to_dict()))["cost"]
    assert cost["flops"].keys() == set(report.plan.order)
    assert cost["coefs"]["dynamics"] == {"returns": 1.0, "reward": 1.0}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("env.id", "CartPol-v1", r"env\.id=CartPol-v1 could not be built"),
        ("agent.encoder", "token_grid", r"agent\.encoder=token_grid does not support vector observations; use one of mlp"),
        (
            "trainer.losses.ppo_critic.gamma",
            0.5,
            r"trainer\.gamma=0\.99 and trainer\.losses\.ppo_critic\.gamma=0\.5 name the same",
        ),
    ],
)
def test_settings_that_do_not_fit_together_are_refused_before_anything_starts(path: str, value: object, message: str) -> None:
    settings = cartpole.settings()
    *parents, name = path.split(".")
    group: object = settings
    for parent in parents:
        group = getattr(group, parent)
    setattr(group, name, value)
    with pytest.raises(UserError, match=message):
        report_plan(settings)


def test_cogs_are_planned_with_their_own_encoder() -> None:
    report = report_plan(cogs_v_clips.settings())
    assert report.auto["agent.encoder"] == "token_grid"
    assert report.spaces.action.sizes == (5,)
    assert "env.vectorization" not in report.auto
    assert (report.auto["trainer.precision"], report.auto["trainer.threads"]) == ("float32", "1")


def test_a_plan_says_how_an_image_is_read() -> None:
    settings = cartpole.settings()
    settings.env = FactoryEnv(factory="tests.actors.environments.scripted:make_picture", kwargs={"shape": [36, 36, 12]})
    report = report_plan(settings)
    assert report.auto["env.channels"] == "last"
    assert report.spaces.observation.shape == (12, 36, 36)
    assert "env.channels = last" in report.to_text()
    settings.env.channels = "first"
    assert "env.channels" not in report_plan(settings).auto, "it was not chosen"


def test_images_on_a_cpu_get_a_network_that_trains_there_which_a_resumed_run_does_not_change() -> None:
    settings = cartpole.settings()
    settings.env = FactoryEnv(factory="tests.actors.environments.scripted:make_picture", kwargs={"shape": [36, 36, 12]})
    settings.trainer.device = "cpu"
    report = report_plan(settings)
    assert (report.settings.agent.encoder, report.auto["agent.encoder"]) == ("auto_cpu", "small_cnn")
    assert settings.agent.encoder == "auto"
    assert report_plan(settings, resumed=True).auto["agent.encoder"] == "cnn"
    assert report_plan(report.settings, resumed=True).auto["agent.encoder"] == "small_cnn"
    settings.agent.encoder = "nature"
    report = report_plan(settings)
    assert report.settings.agent.encoder == "nature"
    assert report.auto["trainer.precision"] == ("bfloat16" if multiplies_bfloat16() else "float32")
    assert report.auto["trainer.threads"] == str(report.threads)
    settings.trainer.precision, settings.trainer.threads = "float32", 3
    report = report_plan(settings)
    assert report.threads == 3
    assert not {"trainer.precision", "trainer.threads"} & report.auto.keys()


def test_a_plan_estimates_the_time_of_a_learner_step_and_warns_of_more_than_a_day() -> None:
    report = report_plan(cartpole.settings())
    seconds = report.step_seconds
    assert seconds is not None
    assert 1e-3 < seconds < 60
    whole = in_words(seconds * report.learner_steps)
    assert f"  time          about {seconds:.2g} s on this machine's CPU with trainer.threads=1, {whole} for the budget" in (
        report.to_text(cost=True)
    )
    assert report.to_dict()["step_seconds"] == seconds
    assert "warning" not in report.to_text(cost=True)
    report.__dict__["step_seconds"] = 24.1 * 3600 / report.learner_steps
    assert "warning       this takes longer than a day; use a smaller network" in report.to_text(cost=True)
    report.__dict__["step_seconds"] = None  # a GPU
    assert "  time" not in report.to_text(cost=True)


def test_a_plan_estimates_the_time_of_a_learner_step_for_a_dict_observation() -> None:
    seconds = report_plan(tic_tac_toe.settings()).step_seconds
    assert seconds is not None
    assert 1e-3 < seconds < 60


def test_a_tool_without_its_package_raises_an_error_before_the_run_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorboard" else find_spec(name))
    settings = cartpole.settings()
    settings.metrics.tensorboard = True
    with pytest.raises(UserError, match=r"metrics\.tensorboard=true needs .* pip install 'oatmill\[tensorboard\]'$"):
        report_plan(settings)


def test_an_invalid_own_encoder_raises_an_error_before_the_run_starts() -> None:
    settings = cartpole.settings()
    settings.agent.encoder = "builtins:str"
    with pytest.raises(UserError, match=r"agent\.encoder=builtins:str must return a torch\.nn\.Module, got str$"):
        report_plan(settings)


@pytest.mark.parametrize(
    ("space", "shown"),
    [
        (Box(-2.0, 2.0, (3,)), "Box [3] within -2..2"),
        (Box(np.array([-1, 0], np.float32), np.array([1, 9], np.float32)), "Box [2] within -1..1, 0..9"),
        (Box(np.zeros(6, np.float32), np.arange(1, 7, dtype=np.float32)), "Box [6] within 0..1, 0..2, 0..3, 0..4, ..."),
        (Dict(turn=Discrete(3), push=Box(0.0, 1.0, (1,))), "MultiDiscrete [3] and Box [1] within 0..1"),
    ],
    ids=["one range", "two", "many", "beside choices"],
)
def test_a_plan_shows_the_bounds_of_numbers(space: object, shown: str) -> None:
    assert action_text(convert_action_space(space, "it").space) == shown


def test_an_environment_that_fails_in_a_step_is_refused_before_the_run_starts() -> None:
    settings = cartpole.settings()
    settings.env = FactoryEnv(factory="tests.actors.environments.toy_environments:Fails", kwargs={"how": "raises in step"})
    with pytest.raises(UserError, match=r"Fails raised in step: RuntimeError: the physics exploded \(.*, in step\)$"):
        report_plan(settings)
