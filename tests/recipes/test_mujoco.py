"""The recipe mujoco: settings by env.id, under those of the user."""

from __future__ import annotations

from recipes import mujoco
from recipes.resolve import resolve_run
from runner.settings import RunSettings


def settings_of(*assignments: str) -> RunSettings:
    return resolve_run("mujoco", assignments, preset=None, config=None, flags={}).settings


def test_half_cheetah_has_settings_of_its_own_and_other_tasks_have_the_recipes() -> None:
    cheetah, hopper = settings_of(), settings_of("env.id=Hopper-v5")
    assert (cheetah.trainer.minibatches, hopper.trainer.minibatches) == (32, 16)
    assert cheetah.trainer.losses.ppo_critic.gae_lambda < hopper.trainer.losses.ppo_critic.gae_lambda
    assert hopper.to_dict()["trainer"] == mujoco.settings().to_dict()["trainer"]


def test_what_the_user_sets_counts_more() -> None:
    given = settings_of("trainer.minibatches=8", "trainer.losses.ppo_actor.clip_coef=0.1")
    assert (given.trainer.minibatches, given.trainer.losses.ppo_actor.clip_coef) == (8, 0.1)
    assert given.trainer.prepare_every == "epoch"


def test_python_gets_the_settings_of_the_command() -> None:
    assert mujoco.train().settings == settings_of()
