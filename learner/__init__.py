"""The learner: losses in their order, the update, and what is measured of it."""

from __future__ import annotations

import oatmill  # noqa: F401  (checks first that Python finds our packages and not files of those names)
