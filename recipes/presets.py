"""Named sets of loss settings: which losses are on, and how strongly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from protocol.errors import UserError
from protocol.setting_errors import nearest

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "conservative": {
        "trainer": {
            "losses": {
                "cmpo": {"enabled": True, "kl_coef": 0.01},
                "dynamics": {"enabled": True, "unroll_steps": 3, "returns_pred_coef": 1.0, "reward_pred_coef": 1.0},
                "muesli_model": {"enabled": True, "policy_pred_coef": 0.001, "policy_horizon": 1},
            }
        }
    },
    "aggressive": {
        "trainer": {
            "losses": {
                "cmpo": {"enabled": True, "kl_coef": 0.05},
                "dynamics": {"enabled": True, "unroll_steps": 5, "returns_pred_coef": 1.0, "reward_pred_coef": 1.0},
                "muesli_model": {"enabled": True, "policy_pred_coef": 0.005, "policy_horizon": 5},
            }
        }
    },
}


def find_preset(name: str | None) -> Mapping[str, Any]:
    """A preset's settings; none without a name.

    Raises:
        UserError: if there is no such preset; names the nearest one.
    """
    if name is None:
        return {}
    if name not in PRESETS:
        raise UserError(
            f"there is no preset {name!r}; the nearest is {nearest(name, list(PRESETS))} (there are {', '.join(PRESETS)})"
        )
    return PRESETS[name]
