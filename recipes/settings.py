"""The former place of `RunSettings`, which recipes of users import; today `oatmill.RunSettings`."""

from __future__ import annotations

from runner.settings import RunSettings

__all__ = ["RunSettings"]
