"""A run on this machine: settings, run folder, result and observer."""

from __future__ import annotations

import oatmill  # noqa: F401  (checks first that Python finds our packages and not files of those names)
