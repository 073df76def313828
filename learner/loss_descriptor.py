"""Descriptors of losses for all tools: role, coefficients, KL statistic and colour (no torch).

Steering, red flags, metrics, `oatmill doctor`, the comparison and the dashboards use these
descriptors and no names of losses. Therefore your own loss is treated like a built-in one: give
`learner.loss.Choice` a descriptor, or leave it out to get an auxiliary loss with a default colour.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import cycle
from typing import Any, Literal

from pydantic import TypeAdapter

LOSSES_FILE = "losses.json"
"""The file in the run folder with the losses' descriptors, for commands that cannot import your
module."""
MUESLI_RATIO = (1.0, 10.0)
PALETTE = ("#8a6d3b", "#1fa2b8", "#4a4f57", "#b8a11f", "#d65f5f", "#6c8ebf")
"""Colours of losses without a colour in their descriptor."""
COLOR = re.compile(r"#[0-9a-fA-F]{6}")


@dataclass(frozen=True)
class LossDescriptor:
    """A description of one loss for tools.

    Attributes:
        name: the name of the loss's class attribute `name`.
        help: one line that says what the loss does.
        role: `critic`, `policy` or `auxiliary`; only auxiliary losses are steered.
        coefficients: for each term's name, the dotted path of the setting that is its coefficient.
        largest_coefficient: the upper bound of those settings; None if they have none.
        kl: for a cross-entropy loss, the name of its KL statistic, the part that training can reduce.
        policy_ratio: the normal range of its gradient norm, as a multiple of the policy gradient's;
            None if there is no such range.
        terms: the terms and statistics whose Prometheus series exist before the first report.
        gauges: additional metrics: metric name to the number's name and a help text.
        schedule: how all of its coefficients change over the budget unless `trainer.coef_schedules` names the loss:
            `linear` or `cosine` to 0; empty for constant ones.
        color: `#rrggbb`; empty for a colour of the palette.

    Raises:
        ValueError: if the colour is invalid.
    """

    name: str
    help: str = ""
    role: Literal["critic", "policy", "auxiliary"] = "auxiliary"
    coefficients: Mapping[str, str] = field(default_factory=dict)
    largest_coefficient: float | None = None
    kl: str = "kl"
    policy_ratio: tuple[float, float] | None = None
    terms: tuple[str, ...] = ()
    gauges: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    schedule: Literal["", "linear", "cosine"] = ""
    color: str = ""

    def __post_init__(self) -> None:
        """Check the colour."""
        if self.color and not COLOR.fullmatch(self.color):
            raise ValueError(f"the color of the loss {self.name} must be #rrggbb, such as {PALETTE[0]}, got {self.color!r}")

    @property
    def auxiliary(self) -> bool:
        """Whether the loss only assists the critic and the policy gradient."""
        return self.role == "auxiliary"


def _settings(loss: str, **terms: str) -> dict[str, str]:
    return {term: f"trainer.losses.{loss}.{setting}" for term, setting in terms.items()}


BUILT_IN: Mapping[str, LossDescriptor] = {
    descriptor.name: descriptor
    for descriptor in (
        LossDescriptor(
            "ppo_critic",
            "Trains the value head on the value targets.",
            role="critic",
            coefficients=_settings("ppo_critic", value="vf_coef"),
            terms=("value",),
            color="#3b6fb6",
        ),
        LossDescriptor(
            "cmpo",
            "Trains the policy towards the prior policy, reweighted by clipped advantages.",
            coefficients=_settings("cmpo", kl="kl_coef"),
            terms=("kl", "cross_entropy", "target_entropy"),
            gauges={
                "cmpo_advantage_mean": (
                    "adv_mean",
                    "Mean of CMPO's advantages, divided by sigma and temperature, under the prior policy",
                ),
                "cmpo_advantage_std": ("adv_std", "Standard deviation of CMPO's advantages within states"),
                "cmpo_kl": ("kl", "KL from CMPO's policy to the trained policy"),
            },
            color="#d1762b",
        ),
        LossDescriptor(
            "ppo_actor",
            "PPO's clipped policy gradient and entropy bonus.",
            role="policy",
            coefficients=_settings("ppo_actor", entropy="ent_coef"),
            terms=("policy", "entropy"),
            color="#2f9e6e",
        ),
        LossDescriptor(
            "muesli_pg",
            "The policy gradient of the Muesli paper, instead of ppo_actor.",
            role="policy",
            coefficients=_settings("muesli_pg", policy="pg_coef", entropy="ent_coef"),
            terms=("policy", "entropy"),
            color="#1d6b4a",
        ),
        LossDescriptor(
            "dynamics",
            "Trains the dynamics model's rewards and values along the taken actions.",
            coefficients=_settings("dynamics", returns="returns_pred_coef", reward="reward_pred_coef"),
            largest_coefficient=1.0,
            terms=("returns", "reward"),
            color="#b5447a",
        ),
        LossDescriptor(
            "muesli_model",
            "Trains the dynamics model's policies towards the improved policy.",
            coefficients=_settings("muesli_model", cross_entropy="policy_pred_coef"),
            policy_ratio=MUESLI_RATIO,
            terms=("cross_entropy", "target_entropy", "kl"),
            color="#7a5cc0",
        ),
    )
}
"""The losses of `learner.plan.LOSSES`, in the same order."""

_FILE = TypeAdapter(dict[str, LossDescriptor])


def describe(names: Iterable[str], own: Mapping[str, LossDescriptor] | None = None) -> dict[str, LossDescriptor]:
    """The descriptor of each loss: its own, the built-in one, or a default.

    Args:
        names: the losses' names.
        own: the losses' own descriptors, by name.
    """
    known = {**BUILT_IN, **(own or {})}
    return {name: known.get(name) or LossDescriptor(name) for name in names}


def loss_colors(descriptors: Mapping[str, LossDescriptor]) -> dict[str, str]:
    """The colour of each loss; losses without one get the palette's colours in turn."""
    spare = cycle(PALETTE)
    return {name: descriptor.color or next(spare) for name, descriptor in descriptors.items()}


def to_json(descriptors: Mapping[str, LossDescriptor]) -> Any:
    """The content of `LOSSES_FILE`."""
    return _FILE.dump_python(dict(descriptors), mode="json")


def from_json(content: Any) -> dict[str, LossDescriptor]:
    """Read the result of `to_json`.

    Raises:
        ValueError: if the content is invalid.
    """
    found = _FILE.validate_python(content)
    return {name: replace(descriptor, name=name) for name, descriptor in found.items()}
