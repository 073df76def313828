"""Recipes: named settings for training, one file per recipe."""

from __future__ import annotations

import oatmill  # noqa: F401  (raises if a user's file shadows one of our packages)
