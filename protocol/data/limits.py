"""Limits of what trajectories contain that settings need, too (no NumPy, so that settings load quickly)."""

from __future__ import annotations

LOG_STD_BOUNDS = (-20.0, 5.0)
"""The limits of the logarithm of a standard deviation; the network's own bounds lie within."""
