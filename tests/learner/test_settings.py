"""The learner's settings: defaults, bounds on construction and assignment, freezing, and gamma's two names."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from learner.plan import make_plan
from learner.settings import TrainerSettings
from oatmill.errors import SettingsError
from tests.learner.worlds import make_spec, make_trainer

ROOT = Path(__file__).resolve().parents[2]
NAN, INFINITY = float("nan"), float("inf")
LOSSES = "losses."


def assign(trainer: TrainerSettings, path: str, value: Any) -> None:
    *groups, name = path.split(".")
    setattr(reduce(getattr, groups, trainer), name, value)


def read(trainer: TrainerSettings, path: str) -> Any:
    return reduce(getattr, path.split("."), trainer)


DEFAULTS: dict[str, Any] = {
    "epochs": 4,
    "minibatches": 4,
    "gamma": 0.99,
    "reward_scale": 1.0,
    "reward_clip": None,
    "max_grad_norm": 0.5,
    "optimizer.learning_rate": 1e-3,
    "optimizer.schedule": "linear",
    "optimizer.eps": 1e-5,
    "optimizer.weight_decay": 0.0,
    "losses.ppo_critic.enabled": True,
    "losses.ppo_critic.vf_coef": 0.5,
    "losses.ppo_critic.clip_vloss": False,
    "losses.ppo_critic.vf_clip_coef": 0.1,
    "losses.ppo_critic.gae_lambda": 0.95,
    "losses.ppo_critic.rho_clip": 1.0,
    "losses.ppo_critic.c_clip": 1.0,
    "losses.cmpo.enabled": False,
    "losses.cmpo.kl_coef": 0.01,
    "losses.cmpo.advantage_clip": 1.0,
    "losses.cmpo.advantage": "auto",
    "losses.cmpo.baseline": "prior_value",
    "losses.cmpo.prior_ema_rate": 0.1,
    "losses.cmpo.variance_decay": 0.99,
    "losses.cmpo.variance_eps": 1e-12,
    "losses.cmpo.estimator": "auto",
    "losses.cmpo.num_samples": 16,
    "losses.ppo_actor.enabled": True,
    "losses.ppo_actor.clip_coef": 0.2,
    "losses.ppo_actor.ent_coef": 0.01,
    "losses.ppo_actor.norm_adv": True,
    "losses.ppo_actor.target_kl": None,
    "losses.ppo_actor.anchor": "behaviour",
    "losses.dynamics.enabled": False,
    "losses.dynamics.unroll_steps": 3,
    "losses.dynamics.returns_pred_coef": 1.0,
    "losses.dynamics.reward_pred_coef": 1.0,
    "losses.dynamics.gradient_scale": 0.5,
    "losses.muesli_model.enabled": False,
    "losses.muesli_model.policy_pred_coef": 0.001,
    "losses.muesli_model.policy_horizon": 1,
    "losses.muesli_model.policy_target": "auto",
}


def test_the_defaults_are_the_specifications() -> None:
    trainer = TrainerSettings()
    assert {path: read(trainer, path) for path in DEFAULTS} == DEFAULTS


OUT_OF_BOUNDS: dict[str, tuple[Any, ...]] = {
    "total_timesteps": (0,),
    "batch_size": (0,),
    "epochs": (0,),
    "minibatches": (0,),
    "gamma": (-0.01, 1.01, NAN),
    "reward_scale": (0, NAN, INFINITY),
    "reward_clip": (0, NAN),
    "max_grad_norm": (0, NAN),
    "optimizer.learning_rate": (0, NAN, INFINITY),
    "optimizer.eps": (0,),
    "optimizer.weight_decay": (-1e-9,),
    "optimizer.beta1": (1.0, -0.1),
    "losses.ppo_critic.vf_coef": (-0.1, NAN, INFINITY),
    "losses.ppo_critic.vf_clip_coef": (-0.1, NAN),
    "losses.ppo_critic.gae_lambda": (-0.01, 1.01, NAN),
    "losses.ppo_critic.rho_clip": (0, NAN),
    "losses.ppo_critic.c_clip": (0, NAN),
    "losses.ppo_critic.gamma": (-0.01, 1.01, NAN),
    "losses.cmpo.kl_coef": (-0.01, NAN),
    "losses.cmpo.advantage_clip": (0, -1, NAN, INFINITY),
    "losses.cmpo.advantage": ("best",),
    "losses.cmpo.prior_ema_rate": (0, 1.01, NAN),
    "losses.cmpo.variance_decay": (1.0, -0.1, NAN),
    "losses.cmpo.variance_eps": (-1e-12,),
    "losses.cmpo.num_samples": (1,),
    "losses.ppo_actor.clip_coef": (0, 1.01, NAN),
    "losses.ppo_actor.ent_coef": (-0.01, NAN),
    "losses.ppo_actor.target_kl": (0, NAN),
    "losses.ppo_actor.norm_adv": ("maybe",),
    "losses.dynamics.unroll_steps": (0, 21, 1.5),
    "losses.dynamics.returns_pred_coef": (-0.01, 1.01, NAN),
    "losses.dynamics.reward_pred_coef": (-0.01, 1.01, NAN),
    "losses.muesli_model.policy_pred_coef": (-0.001, NAN),
    "losses.muesli_model.policy_horizon": (0, 21),
    "losses.muesli_model.policy_target": ("model",),
}


@pytest.mark.parametrize(("path", "value"), [(path, value) for path, values in OUT_OF_BOUNDS.items() for value in values])
def test_a_value_out_of_bounds_raises_an_error_on_assignment_and_changes_nothing(path: str, value: Any) -> None:
    trainer = TrainerSettings()
    before = trainer.model_dump()
    with pytest.raises(SettingsError, match=path.rpartition(".")[2]):
        assign(trainer, path, value)
    assert trainer.model_dump() == before


@pytest.mark.parametrize(
    "path", ["gamma", "losses.cmpo.advantage_clip", "optimizer.learning_rate", "losses.dynamics.unroll_steps"]
)
def test_a_value_out_of_bounds_raises_an_error_on_construction(path: str) -> None:
    nested: Any = OUT_OF_BOUNDS[path][0]
    for name in reversed(path.split(".")):
        nested = {name: nested}
    with pytest.raises(ValidationError):
        TrainerSettings.model_validate(nested)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("gamma", 0.0),
        ("gamma", 1.0),
        ("losses.ppo_critic.gae_lambda", 1.0),
        ("losses.cmpo.prior_ema_rate", 1.0),
        ("losses.cmpo.variance_decay", 0.0),
        ("losses.ppo_actor.clip_coef", 1.0),
        ("losses.dynamics.unroll_steps", 20),
        ("losses.dynamics.returns_pred_coef", 0.0),
        ("losses.muesli_model.policy_pred_coef", 0.0),
    ],
)
def test_bounds_that_belong_to_the_range_are_taken(path: str, value: Any) -> None:
    trainer = TrainerSettings()
    assign(trainer, path, value)
    assert read(trainer, path) == value


def test_an_unknown_name_raises_an_error() -> None:
    with pytest.raises(SettingsError):
        assign(TrainerSettings(), "losses.cmpo.kl_coeff", 0.1)
    with pytest.raises(ValidationError):
        TrainerSettings.model_validate({"losses": {"cmpoo": {}}})


def test_frozen_settings_cannot_be_changed_at_any_depth() -> None:
    trainer = TrainerSettings()
    trainer.freeze()
    for path in ("gamma", "losses.cmpo.kl_coef", "optimizer.learning_rate"):
        with pytest.raises(SettingsError, match="cannot be changed any more"):
            assign(trainer, path, 0.5)
    assert trainer.gamma == 0.99


def test_gamma_may_be_set_under_either_name() -> None:
    assert TrainerSettings().discount == 0.99
    assert TrainerSettings(gamma=0.9).discount == 0.9
    assert make_trainer("baseline", {"losses.ppo_critic.gamma": 0.8}).discount == 0.8
    assert make_trainer("baseline", {"gamma": 0.8, "losses.ppo_critic.gamma": 0.8}).discount == 0.8


def test_two_different_gammas_raise_an_error_in_either_order() -> None:
    message = r"trainer\.gamma=0\.9 and trainer\.losses\.ppo_critic\.gamma=0\.8 name the same discount; set one"
    with pytest.raises(ValidationError, match=message):
        TrainerSettings.model_validate({"gamma": 0.9, "losses": {"ppo_critic": {"gamma": 0.8}}})
    with pytest.raises(SettingsError, match="name the same discount"):
        make_trainer("baseline", {"losses.ppo_critic.gamma": 0.8, "gamma": 0.9})
    # The group below does not see the one above, so this order is found when the plan is made.
    trainer = make_trainer("baseline", {"gamma": 0.9, "losses.ppo_critic.gamma": 0.8})
    with pytest.raises(SettingsError, match=message):
        make_plan(trainer, make_spec().settings, make_spec().spaces.action)


@pytest.mark.parametrize("changes", [{}, {"gamma": 0.9}, {"losses.ppo_critic.gamma": 0.9}])
def test_settings_go_through_a_written_config_unchanged(changes: dict[str, Any]) -> None:
    # What is written names every setting; gamma under one name must not then contradict the other's default.
    trainer = make_trainer("full", changes)
    again = TrainerSettings.model_validate(json.loads(json.dumps(trainer.model_dump(mode="json"))))
    assert again.discount == trainer.discount
    assert again.model_dump() == trainer.model_dump()


def test_settings_are_read_without_torch() -> None:
    code = "import sys, learner.settings, learner.budget, agent.settings, agent; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)
