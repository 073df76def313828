"""Learner ranks: starting a group, and how the ranks meet."""
