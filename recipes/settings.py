"""The former module of `RunSettings`, for existing recipes of users; use `oatmill.RunSettings`."""

from __future__ import annotations

from runner.settings import RunSettings

__all__ = ["RunSettings"]
