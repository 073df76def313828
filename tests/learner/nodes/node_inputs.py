"""A batch's arrays, by the names that nodes read, and an updater's context for them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from agent.spec import AgentSpec
from learner.loss import Context
from tests.learner.worlds import inputs_of, make_batch, make_trainer, make_updater_of

GAMMA = 0.9


def world(spec: AgentSpec, changes: dict[str, Any] | None = None) -> tuple[Context, dict[str, Tensor]]:
    updater = make_updater_of(make_trainer("full", {"gamma": GAMMA} | (changes or {})), spec)
    return updater.context, inputs_of(updater, make_batch(spec, size=5, steps=8, seed=4))


def picked(inputs: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {name: inputs[name] for name in names}


FORWARD = (
    "observations_BT1",
    "core_state_BS",
    "actions_BT",
    "terminated_BT",
    "truncated_BT",
    "behaviour_log_probs_BTA",
    "final_observations",
    "final_trajectory",
    "final_step",
)
PRIOR = tuple(name for name in FORWARD if name not in ("actions_BT", "behaviour_log_probs_BTA"))
