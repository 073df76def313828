"""The arms of a comparison: what each changes on a recipe, the tuning guide's four or one's own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from oatmill.errors import UserError
from oatmill.settings.complaints import nearest
from recipes.presets import PRESETS, find_preset
from runner.overrides import merged, nested, parse_assignment

MUESLI = {"muesli_model": {"enabled": True}}
CMPO = {"cmpo": {"enabled": True}}
DYNAMICS = {"dynamics": {"enabled": True}}

GUIDE: Mapping[str, Mapping[str, Any]] = {
    "baseline": {},
    "muesli": {"trainer": {"losses": MUESLI}},
    "muesli_cmpo": {"trainer": {"losses": MUESLI | CMPO}},
    "full": {"trainer": {"losses": MUESLI | CMPO | DYNAMICS}},
}
"""The tuning guide's testing protocol: one more loss at a time."""

NAME = re.compile(r"^[A-Za-z0-9][\w.+-]*$")
NEXT_SETTING = re.compile(r",(?=[A-Za-z_][\w.]*=)")
"""The commas that part settings, and not the items of a list."""


def find_arms(names: str, own: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """The settings that each arm changes, by the arm's name, in the order given.

    Args:
        names: the guide's arms or presets, parted by commas; may be empty where there are own ones.
        own: the user's own arms, each `NAME=key=value,key=value`.

    Raises:
        UserError: if there is no such arm, a name comes twice, or fewer than two arms are left.
    """
    known = {**GUIDE, **PRESETS}
    arms: dict[str, Mapping[str, Any]] = {}
    for name in filter(None, (part.strip() for part in names.split(","))):
        if name not in known:
            raise UserError(
                f"--arms: there is no arm {name!r}; the nearest is {nearest(name, list(known))} (there are {', '.join(known)}; "
                "your own is --arm NAME=key=value,...)"
            )
        add(arms, name, known[name])
    for text in own:
        add(arms, *own_arm(text))
    if len(arms) < 2:  # noqa: PLR2004
        raise UserError(f"a comparison takes two arms or more, got {', '.join(arms) or 'none'}; name them by --arms and --arm")
    return arms


def own_arm(text: str) -> tuple[str, Mapping[str, Any]]:
    """`NAME=key=value,key=value` as a name and nested settings; `preset=NAME` adds those of a preset, below the others.

    Raises:
        UserError: if it is not of that form, or there is no such preset.
    """
    name, equals, settings = text.partition("=")
    if not equals or "=" not in settings or not NAME.match(name):
        raise UserError(f"--arm: expected NAME=key=value,..., such as fast=trainer.optimizer.learning_rate=0.003, got {text!r}")
    values = nested(parse_assignment(part) for part in NEXT_SETTING.split(settings))
    preset = values.pop("preset", None)
    return name, merged(find_preset(None if preset is None else str(preset)), values)


def add(arms: dict[str, Mapping[str, Any]], name: str, values: Mapping[str, Any]) -> None:
    """Add an arm.

    Raises:
        UserError: if there is one of that name.
    """
    if name in arms:
        raise UserError(f"there are two arms named {name}; give the second another name")
    arms[name] = values
