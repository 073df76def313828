"""Processes that step environments and stream trajectories."""
