"""The learner: losses, updates, checkpoints and reports."""

from __future__ import annotations

import oatmill  # noqa: F401  (raises if a user's file shadows one of our packages)
