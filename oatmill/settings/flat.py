"""Settings by their dotted names, for comparing two processes of a run and for exporting numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

MISSING = "nothing"
ENCODER = "agent.encoder"
AUTO_ENCODERS = ("auto", "auto_cpu")
"""The values of `agent.encoder` for which oatmill chooses a network. `auto` depends on the learner's device."""


def flatten_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to dotted names.

    Tuples become lists, as in JSON, and empty mappings are left out.

    Args:
        settings: the content of config.yaml, or a part of it.
        prefix: text before every name.
    """
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flatten_settings(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = json.loads(json.dumps(value))
    return flat


def joining_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that all processes of a run must share: `env.*`, `agent.*`, `actors.unroll_length`.

    Args:
        config: the content of config.yaml.
    """
    flat = flatten_settings(config)
    return {
        name: value for name, value in flat.items() if name.startswith(("env.", "agent.")) or name == "actors.unroll_length"
    }


def acting_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that an actor needs, as nested values that are a whole `RunSettings`.

    The rest, such as paths of the learner's machine, has no use on another one.

    Args:
        config: the content of config.yaml.
    """
    others = {"trainer": ("gamma", "normalize_returns"), "replay": ("queue_batches",)}
    parts = {
        root: {name: config[root][name] for name in names if name in config.get(root, {})} for root, names in others.items()
    }
    return {root: config[root] for root in ("env", "agent", "actors") if root in config} | parts


def first_difference(expected: Mapping[str, Any], got: Mapping[str, Any]) -> str | None:
    """Return a message about the first setting (by name) that differs; None if all are equal.

    Args:
        expected: the run's settings by dotted name.
        got: the joining process's settings by dotted name.
    """
    for name in sorted(expected.keys() | got.keys()):
        wanted, came = expected.get(name, MISSING), got.get(name, MISSING)
        if wanted != came:
            return f"{name}: the run has {wanted!r}, this process has {came!r}"
    return None


def numbers_of(settings: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers and switches (0 or 1) in a run's settings, by dotted path.

    `env.kwargs` is left out: its names belong to the user, so they are not a fixed set.

    Args:
        settings: nested settings, as in config.yaml.
    """
    return {
        path: float(value)
        for path, value in flatten_settings(settings).items()
        if isinstance(value, int | float) and not path.startswith("env.kwargs.")
    }
