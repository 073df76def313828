"""Runs all processes of a run on this machine."""
