"""What every tool needs to know about a loss: its role, its coefficients, its KL and its colour (no torch).

Steering, red flags, metrics, `oatmill doctor`, the comparison and the dashboards read these descriptors and name no loss
themselves. So a loss of your own is treated like the built-in ones: give `learner.loss.Choice` a descriptor, or leave it out
and get an auxiliary loss with a colour of the palette.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import cycle
from typing import Any, Literal

from pydantic import TypeAdapter

LOSSES_FILE = "losses.json"
"""In a run's folder: the descriptors of the run's losses, for commands that cannot import your module."""
MUESLI_RATIO = (1.0, 10.0)
PALETTE = ("#8a6d3b", "#1fa2b8", "#4a4f57", "#b8a11f", "#d65f5f", "#6c8ebf")
"""Colours of losses that bring none."""
COLOR = re.compile(r"#[0-9a-fA-F]{6}")


@dataclass(frozen=True)
class LossDescriptor:
    """One loss, as tools see it.

    Attributes:
        name: the loss's name, the same as its class has.
        help: one line that says what the loss does.
        role: `critic` and `policy` are what auxiliary losses assist; only `auxiliary` losses are steered.
        coefficients: the setting that each term is multiplied by, as a dotted path, by the term's name.
        largest_coefficient: the upper bound of those settings; None if they have none.
        kl: the number that says what training can still remove, for a loss that is a cross-entropy.
        policy_ratio: the range in which its gradient norm should be, as a multiple of the policy gradient's; None for any.
        terms: the terms and statistics that Prometheus has from the start, before the first report.
        gauges: metrics that show one of its numbers: the metric's name to the number's name and the help text.
        color: `#rrggbb`; empty takes a colour of the palette.

    Raises:
        ValueError: if the colour is none.
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
            "Fits the value head to the return target.",
            role="critic",
            coefficients=_settings("ppo_critic", value="vf_coef"),
            terms=("value",),
            color="#3b6fb6",
        ),
        LossDescriptor(
            "cmpo",
            "Pulls the policy towards the prior policy, tilted by clipped advantages.",
            coefficients=_settings("cmpo", kl="kl_coef"),
            terms=("kl", "cross_entropy", "target_entropy"),
            gauges={
                "cmpo_advantage_mean": ("adv_mean", "Mean of CMPO's advantages over sigma, under the prior"),
                "cmpo_advantage_std": ("adv_std", "Their standard deviation within states"),
                "cmpo_kl": ("kl", "KL from CMPO's policy to the policy"),
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
            coefficients=_settings("muesli_pg", policy="pg_coef"),
            terms=("policy", "entropy"),
            color="#1d6b4a",
        ),
        LossDescriptor(
            "dynamics",
            "Trains the model's rewards and returns along the actions that were taken.",
            coefficients=_settings("dynamics", returns="returns_pred_coef", reward="reward_pred_coef"),
            largest_coefficient=1.0,
            terms=("returns", "reward"),
            color="#b5447a",
        ),
        LossDescriptor(
            "muesli_model",
            "Trains the model's policies towards the improved policy.",
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
    """The descriptor of each loss: its own, else the built-in one, else a default one.

    Args:
        names: of the losses.
        own: the descriptors that losses bring, by name.
    """
    known = {**BUILT_IN, **(own or {})}
    return {name: known.get(name) or LossDescriptor(name) for name in names}


def loss_colors(descriptors: Mapping[str, LossDescriptor]) -> dict[str, str]:
    """A colour for each loss; those without one take the palette's in turn."""
    spare = cycle(PALETTE)
    return {name: descriptor.color or next(spare) for name, descriptor in descriptors.items()}


def to_json(descriptors: Mapping[str, LossDescriptor]) -> Any:
    """The content of `LOSSES_FILE`."""
    return _FILE.dump_python(dict(descriptors), mode="json")


def from_json(content: Any) -> dict[str, LossDescriptor]:
    """What `to_json` gave.

    Raises:
        ValueError: if it is something else.
    """
    found = _FILE.validate_python(content)
    return {name: replace(descriptor, name=name) for name, descriptor in found.items()}
