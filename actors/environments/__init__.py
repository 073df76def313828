"""Environments as actors step them: adapters that bring every kind to the same conventions."""
