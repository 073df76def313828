"""Values that JSON can represent, and their bytes for a digest."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def canonical_json(values: Any) -> bytes:
    """Return the same bytes for equal JSON values, whatever the order of their names, for a digest."""
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()


def without_nonfinite(value: Any) -> Any:
    """Return the same value, with None in place of every number that JSON cannot represent."""
    if isinstance(value, Mapping):
        return {name: without_nonfinite(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_nonfinite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
