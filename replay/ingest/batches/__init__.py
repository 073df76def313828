"""Ingest and the learner: cutting batches, the ranks that get them, and checkpoints."""
