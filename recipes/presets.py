"""Presets: named sets of loss settings, with the enabled losses and their coefficients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oatmill.errors import UserError
from oatmill.settings.complaints import nearest


def _guide(*, kl: float, steps: int, policy: float, horizon: int) -> Mapping[str, Any]:
    """The guide's extra losses: CMPO's coefficient, the model's steps, and coefficient and horizon of its policies."""
    losses = {
        "cmpo": {"enabled": True, "kl_coef": kl},
        "dynamics": {"enabled": True, "unroll_steps": steps, "returns_pred_coef": 1.0, "reward_pred_coef": 1.0},
        "muesli_model": {"enabled": True, "policy_pred_coef": policy, "policy_horizon": horizon},
    }
    return {"trainer": {"losses": losses}}


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "conservative": _guide(kl=0.01, steps=3, policy=0.001, horizon=1),
    "aggressive": _guide(kl=0.05, steps=5, policy=0.005, horizon=5),
    # The losses at work beside PPO without taking over: each has some percent of the gradient. docs/recipes/cogs_v_clips.md has
    # the runs that it comes from.
    "tuned": {
        "trainer": {
            "losses": {
                "cmpo": {"enabled": True, "kl_coef": 1.0},
                "dynamics": {"enabled": True, "start_fraction": 0.25, "returns_pred_coef": 0.5, "reward_pred_coef": 1.0},
                "muesli_model": {"enabled": True, "policy_pred_coef": 0.2},
            }
        }
    },
    # The hyperparameters of Hessel et al. 2021, arXiv:2104.06159, tables 5 and 6: one update per batch, 75 % replayed data.
    # Each is given, so that a recipe cannot change it. docs/concepts/losses.md says where each comes from.
    "paper": {
        "agent": {"value_head": "categorical"},
        "actors": {"unroll_length": 30},
        "replay": {"fraction": 0.75},
        "trainer": {
            "batch_size": 96,
            "epochs": 1,
            "minibatches": 1,
            "gamma": 0.995,
            "returns": "retrace",
            "acting_network": "prior",
            "optimizer": {"learning_rate": 3e-4, "schedule": "linear", "weight_decay": 0.0},
            "losses": {
                "ppo_critic": {"vf_coef": 0.25, "gae_lambda": 0.95},
                "cmpo": {
                    "enabled": True,
                    "kl_coef": 1.0,
                    "advantage_clip": 1.0,
                    "advantage": "model",
                    "baseline": "prior_value",
                    "prior_ema_rate": 0.1,
                    "variance_decay": 0.99,
                    "variance_eps": 1e-12,
                    "estimator": "exact",
                    "num_samples": 16,
                },
                "ppo_actor": {"enabled": False},
                "muesli_pg": {"enabled": True, "pg_coef": 1.0, "ent_coef": 0.0, "ratio_clip": 1.0},
                "dynamics": {"enabled": True, "unroll_steps": 5, "returns_pred_coef": 0.25, "reward_pred_coef": 1.0},
                "muesli_model": {"enabled": True, "policy_pred_coef": 1.0, "policy_horizon": 5},
            },
        },
    },
}


def find_preset(name: str | None) -> Mapping[str, Any]:
    """The settings of a preset; empty without a name.

    Raises:
        UserError: if there is no such preset; the message names the nearest one.
    """
    if name is None:
        return {}
    if name not in PRESETS:
        raise UserError(
            f"there is no preset {name!r}; the nearest is {nearest(name, list(PRESETS))} (there are {', '.join(PRESETS)})"
        )
    return PRESETS[name]
