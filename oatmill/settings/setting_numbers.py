"""The numbers among a run's settings, each by its path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oatmill.settings.flat import flatten_settings


def numbers_of(settings: Mapping[str, Any]) -> dict[str, float]:
    """What is a number or a switch (0 or 1), by dotted path.

    What `env.kwargs` holds is left out: its names are the user's own, and belong to no closed set.

    Args:
        settings: nested, as `config.yaml` has them.
    """
    return {
        path: float(value)
        for path, value in flatten_settings(settings).items()
        if isinstance(value, int | float) and not path.startswith("env.kwargs.")
    }
