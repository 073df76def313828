"""A run on this machine: settings, run folder, result and observer."""

from __future__ import annotations

import oatmill  # noqa: F401  (raises if a user's file shadows one of our packages)
