"""Checkpoints: saving, loading, returning to an older one, and keeping bad batches."""
