"""What to train: a run's settings, and starting it on this machine."""

from __future__ import annotations

import oatmill  # noqa: F401  (checks first that Python finds our packages and not files of those names)
