"""The numbers among a run's settings, each by its path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def numbers_of(settings: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """What is a number or a switch (0 or 1), by dotted path.

    What `env.kwargs` holds is left out: its names are the user's own, and belong to no closed set.

    Args:
        settings: nested, as `config.yaml` has them.
        prefix: of all paths.
    """
    found: dict[str, float] = {}
    for name, value in settings.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping) and path != "env.kwargs":
            found |= numbers_of(value, f"{path}.")
        elif isinstance(value, int | float):
            found[path] = float(value)
    return found
