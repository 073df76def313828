"""Adapters that give every kind of environment the same interface for actors."""
