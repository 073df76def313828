"""Plays and records episodes with a checkpoint."""
