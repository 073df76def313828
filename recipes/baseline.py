"""The guide's baseline, as settings that recipes share: for actions that are choices, and for actions with numbers.

A recipe takes one of them with `**` and sets what its environment needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CHOICES: Mapping[str, Any] = {
    "epochs": 4,
    "minibatches": 4,
    "gamma": 0.99,
    "optimizer": {"learning_rate": 1e-3},
    "losses": {"ppo_critic": {"gae_lambda": 0.95}},
}
"""The learner's settings for actions that are choices."""
NUMBERS: Mapping[str, Any] = {
    "epochs": 10,
    "minibatches": 32,
    "shuffle": "steps",
    "gamma": 0.99,
    "optimizer": {"learning_rate": 3e-4},
    "losses": {"ppo_critic": {"gae_lambda": 0.95}, "ppo_actor": {"ent_coef": 0.0}},
}
"""The learner's settings for actions with numbers, which have a Gaussian policy; those of CleanRL's
`ppo_continuous_action.py`."""
NUMBERS_AGENT: Mapping[str, Any] = {"hidden_sizes": [64, 64], "value_head": "scalar", "value_trunk": "separate"}
"""The network's settings for actions with numbers and observations that are one vector."""
