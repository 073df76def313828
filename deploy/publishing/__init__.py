"""Prepares a trained policy for others: a folder without secrets, with a model card."""
