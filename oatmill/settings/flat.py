"""What two processes compare when one joins the other's run: settings under their dotted names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

MISSING = "nothing"


def flatten_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level of dotted names, with lists for tuples, as JSON would give them back.

    An empty mapping has no names below it and so leaves no trace.

    Args:
        settings: what config.yaml holds, or a part of it.
        prefix: put before every name.
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
    """Say which setting differs, the first one by name, or None if all agree.

    Args:
        expected: the run's settings by dotted name.
        got: the joining process's.
    """
    for name in sorted(expected.keys() | got.keys()):
        wanted, came = expected.get(name, MISSING), got.get(name, MISSING)
        if wanted != came:
            return f"{name}: the run has {wanted!r}, this process has {came!r}"
    return None
