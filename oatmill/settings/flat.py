"""Settings under their dotted names: what two processes compare when one joins a run, and what is exported as numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

MISSING = "nothing"


def flatten_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to dotted names. Tuples become lists, as in JSON, and empty mappings are left out.

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
    """The settings on which every process of a run must agree: `env.*`, `agent.*` and `actors.unroll_length`.

    Args:
        config: the roots of config.yaml, as `yaml.safe_load` reads them.
    """
    flat = flatten_settings(config)
    return {
        name: value for name, value in flat.items() if name.startswith(("env.", "agent.")) or name == "actors.unroll_length"
    }


def first_difference(expected: Mapping[str, Any], got: Mapping[str, Any]) -> str | None:
    """Message for the first setting (by name) that differs; None if all agree.

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
    """The numbers and switches (0 or 1) among a run's settings, by dotted path.

    `env.kwargs` is left out: its names are the user's own, and belong to no closed set.

    Args:
        settings: nested, as config.yaml has them.
    """
    return {
        path: float(value)
        for path, value in flatten_settings(settings).items()
        if isinstance(value, int | float) and not path.startswith("env.kwargs.")
    }
