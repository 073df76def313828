"""Checkpoints: saving, loading, going back, and the batches to skip."""
